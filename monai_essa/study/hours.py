# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""How long the stages of a study take: measured on one network, and scaled to others by their arithmetic."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from monai.bundle import ConfigParser
from tqdm import tqdm

from monai_essa.bundling.folder import bundle_folder
from monai_essa.cost.meter import flop_counter
from monai_essa.planning.dry_run import try_steps
from monai_essa.planning.objectives import fitting_batch, least_batch
from monai_essa.planning.run import measured_cost
from monai_essa.study.arms import ARMS, Place, StudyDesign
from monai_essa.study.stages import Stage, Timings, run_stage, write_stage

__all__ = ["STEPS", "Memory", "Work", "default_sizes", "fitting_sizes", "measure", "network_work"]

STEPS = (30, 60, 80, 120, 160, 240, 360, 480, 720, 960, 1440, 1920)
"""The supervised steps that a plan chooses from: coarse, so that noise of the clock changes nothing."""
_TRIED = 3  # steps
_FEW = 2  # steps of a stage that is run from end to end
_PLACE = Place(1, 1)
_FULL_SHARE = 1.5  # of the PEFT step: at most, a backward pass is twice the forward pass instead of once
_LEAST_SHARE = 0.2  # of the PEFT step, for the network that learns from nothing
_LEAST_START = 0.5  # seconds
# The default batches, by task and dimension: supervised, and of the pretext task.
_BATCHES = {
    ("segmentation", 3): (2, 8),
    ("segmentation", 2): (8, 32),
    ("classification", 3): (4, 8),
    ("classification", 2): (16, 32),
}


@dataclass(frozen=True)
class Work:
    """The arithmetic of the steps of a network, to compare it with another one.

    Attributes:
        pretext: FLOPs of the forward pass of its encoder in a step of the pretext task.
        supervised: FLOPs of its forward pass in a step on labels.
    """

    pretext: int
    supervised: int


@dataclass(frozen=True)
class Memory:
    """The memory of a step with every parameter, in bytes.

    Attributes:
        peak: the most that is in use at once, of both tasks.
        weights: of the network of the task.
    """

    peak: int
    weights: int


def default_sizes(design: StudyDesign) -> dict[str, Any]:
    """Return the batches, the user's if there is one, and the recipe of a task where memory does not matter."""
    own = design.values.get("batch_size")  # of every stage, whose steps are counted in it
    batch, pretext = (own, own) if isinstance(own, int) else _BATCHES[design.task, design.images.spatial_dims]
    pretext = fitting_batch(design.objective, pretext, design.sizes["patients"])
    return {"pretext_batch": pretext, "batch": batch, "lean": "fast"}


def fitting_sizes(design: StudyDesign, budget: int) -> tuple[StudyDesign, Memory]:
    """Choose the batches and the lean recipe whose steps fit into memory.

    Args:
        design: with any sizes.
        budget: bytes that the tensors of a step may take.

    Returns:
        The design with its sizes, and what a step takes.

    Raises:
        ValueError: if not even single images fit.
    """
    sizes, least = default_sizes(design), 0
    smallest = {"batch": 1, "pretext_batch": least_batch(design.objective)}
    while True:
        for lean in ("fast", "small"):
            own = replace(design, sizes={**design.sizes, **sizes, "lean": lean})
            memory = _memory(own)
            if memory.peak <= budget:
                return own, memory
            least = min(least or memory.peak, memory.peak)
        if all(sizes[key] <= size for key, size in smallest.items()):
            raise ValueError(
                f"memory: {design.network.name} needs at least {least / 1e9:.2f} GB, and {budget / 1e9:.2f} GB are "
                "left after what the libraries take; give more --memory or a smaller img_size"
            )
        sizes |= {key: max(size, sizes[key] // 2) for key, size in smallest.items()}


def network_work(design: StudyDesign) -> Work:
    """Count the arithmetic of a network; nothing is computed.

    Args:
        design: with its sizes.
    """
    base, training = _with_every_parameter(design)
    return Work(*(_forward_flops(stage, design) for stage in (base, training)))


def measure(design: StudyDesign, labelled: bool = True) -> Timings:
    """Run small stages in the folder of a design and time their steps.

    Args:
        design: whose folder holds a data list with a few scans in the first fold.
        labelled: whether they have labels; without, only the pretext task is timed.

    Returns:
        The seconds.
    """
    design = replace(design, steps=dict.fromkeys(("base", "ssa", "train"), _FEW))
    progress = _Progress(5 if labelled else 3)
    before = {} if design.pretrained is not None else {"base": "base"}
    step: dict[str, float] = {}
    progress.say("a step with every parameter on scans without labels")
    if before:
        base = design.base("base", _PLACE)
        _run(design, base)
        step["base"] = _step_seconds(base)
    else:
        step["base"] = _step_seconds(design.adaptation("full_ssa", "full_ssa", _PLACE, None))
    progress.say("a step of SSA")
    ssa = design.adaptation("ssa", "ssa", _PLACE, before.get("base"))
    step["ssa"] = _step_seconds(ssa)
    if not labelled:
        progress.say("SSA from end to end")
        scan, scans = _scan_seconds(ssa)
        start = _run(design, ssa) - scans * scan - _FEW * step["ssa"]
        return Timings(max(_LEAST_START, start), scan, 0.0, step | dict.fromkeys(("peft", "full", "scratch"), 0.0))
    progress.say("a step on labels")
    training = design.training("train", _arm("no_ssa"), _PLACE, before)
    step["peft"] = _step_seconds(training)
    step["full"] = _FULL_SHARE * step["peft"]
    scratch = design.training("scratch", _arm("scratch"), _PLACE, before)
    share = _forward_flops(scratch, design) / _forward_flops(training, design)
    step["scratch"] = step["peft"] * max(_LEAST_SHARE, share)

    progress.say("a training from end to end")
    scan, scans = _scan_seconds(training)
    start = max(_LEAST_START, _run(design, training) - scans * scan - _FEW * step["peft"])
    progress.say("a test")
    test = design.test("test", training, _PLACE)
    return Timings(start, scan, max(scan, _test_seconds(test)), step)


class _Progress:
    """Says what is timed and about how long the rest takes, since nothing else is shown meanwhile."""

    def __init__(self, parts: int) -> None:
        self._parts, self._done, self._begin = parts, 0, time.monotonic()

    def say(self, what: str) -> None:
        """Begin the next part."""
        left = (time.monotonic() - self._begin) / max(1, self._done) * (self._parts - self._done)
        rest = f"; about {left:.0f} s left" if self._done else ""
        self._done += 1
        tqdm.write(f"planning [{self._done}/{self._parts}]: timing {what}{rest}")


def _arm(name: str) -> Any:
    return next(arm for arm in ARMS if arm.name == name)


def _files(bundle: str, configs: Iterable[str]) -> list[str]:
    return [str(bundle_folder(bundle) / "configs" / name) for name in configs]


def _with_every_parameter(design: StudyDesign) -> tuple[Stage, Stage]:
    """Return the stages that take the most, as they are without weights to start from."""
    base = design.base("base", _PLACE)
    training = design.training("full", _arm("full"), _PLACE, {"base": "base"})
    configs = ["start_random.yaml" if name == "method_full.yaml" else name for name in training.configs]
    values = {key: value for key, value in training.values.items() if key not in ("start", "pretrained")}
    return base, replace(training, configs=configs, values=values)


def _memory(design: StudyDesign) -> Memory:
    costs = []
    adapted = [] if design.objective is None else [design.adaptation("ssa", "full_ssa", _PLACE, None)]
    for stage in (*_with_every_parameter(design), *adapted):
        cost = measured_cost(_files(stage.bundle, stage.configs), stage.values)
        costs.append(cost(stage.values["lean"], stage.values["batch_size"]))
    return Memory(max(cost.peak_bytes for cost in costs), costs[1].weight_bytes)


def _forward_flops(stage: Stage, design: StudyDesign) -> int:
    parser = _parser(stage)
    channels = design.network.in_channels or parser.get_parsed_content("in_channels")
    sides = parser.get_parsed_content("img_size")
    # The constructor of an encoder that is not MONAI's may read the values of its tensors, which a meta tensor lacks.
    place: Any = nullcontext() if design.network.described else torch.device("meta")
    with place:
        network = parser.get_parsed_content("network_def").eval().to("meta")
    with torch.device("meta"), torch.no_grad(), flop_counter() as counter:
        network(torch.empty(1, channels, *sides))
    return int(counter.get_total_flops()) * int(stage.values["batch_size"])


def _parser(stage: Stage, **values: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(_files(stage.bundle, stage.configs))
    parser.update({**stage.values, **values})
    return parser


def _run(design: StudyDesign, stage: Stage) -> float:
    """Run a stage from end to end and return the seconds."""
    small = {} if stage.configs[-1] == "evaluate.yaml" else {"max_epochs": 1, "val_interval": 1}
    if small:
        small["samples_per_epoch"] = _FEW * stage.values["batch_size"]
    return run_stage(write_stage(replace(stage, values={**stage.values, **small}), design.folder))[1]


def _step_seconds(stage: Stage) -> float:
    samples = _TRIED * stage.values["batch_size"]
    parser = _parser(stage, max_epochs=1, val_interval=1, samples_per_epoch=samples, dry_run=True)
    trial = try_steps(parser, most=_TRIED, cached=True)
    return trial.step_seconds + trial.batch_seconds


def _scan_seconds(training: Stage) -> tuple[float, int]:
    """Load the scans of a training without a cache; return the seconds of one, and how many there are."""
    parser = _parser(training, cache_rate=0.0, cache_dir=None)
    dataset = parser.get_parsed_content("train#dataset")
    begin = time.perf_counter()
    for number in range(len(dataset)):
        dataset[number]
    return (time.perf_counter() - begin) / len(dataset), len(dataset)


def _test_seconds(test: Stage) -> float:
    """Test the network of a training; return the seconds of a scan, loading it included."""
    parser = _parser(test)
    parser.get_parsed_content("network")
    begin = time.perf_counter()
    parser.get_parsed_content("validate#evaluator").run()
    return (time.perf_counter() - begin) / len(parser.get_parsed_content("validation_items"))
