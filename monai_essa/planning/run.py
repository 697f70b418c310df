# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Plan a run: choose, measure trial steps, write my_site.yaml."""

from __future__ import annotations

import functools
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from monai_essa.adapters.adapted import adaptation_of
from monai_essa.anatomy import encoder_view
from monai_essa.anatomy.described.description import described
from monai_essa.bundling.folder import bundle_folder
from monai_essa.bundling.yaml_text import commented, yaml_node, yaml_text
from monai_essa.cost.meter import StepCost, step_cost
from monai_essa.cost.record import use_recipe
from monai_essa.engines.steps import autocast_dtype
from monai_essa.engines.views import empty_views
from monai_essa.files import write_text_whole
from monai_essa.outside import check_config_value, printable
from monai_essa.planning.choices import (
    SIDE,
    Choice,
    Computer,
    Timing,
    cache_choices,
    epoch_choices,
    network_choice,
    overlay_choices,
    patch_choice,
    recipe_choice,
    spacing_choice,
    stage_choice,
)
from monai_essa.planning.dry_run import try_steps
from monai_essa.planning.networks import Network, images_for
from monai_essa.planning.objectives import check_network, least_batch, objective_overlay, objective_values
from monai_essa.planning.site import SiteFacts

__all__ = [
    "Plan",
    "Wishes",
    "measured_cost",
    "measured_peak",
    "measured_times",
    "plan_run",
    "plan_text",
    "window_count",
    "write_plan",
]

Choices = dict[str, Choice]
# For the meter, which reads no data: the weights of classes, which labels tell; the steps of a run, a loss that small
# batches lack, the images that DIET tells apart. None of them takes a thousandth of the memory.
_METERED = {"loss_weights": None, "epoch_steps": 1, "koleo": 0.0, "objective#images": 1000}
_STEPS = 5
_LOADS = 3
_OVERLAP = 0.5  # of the sliding windows that essa_segmentation validates by


@dataclass(frozen=True)
class Wishes:
    """What the user asked for.

    Attributes:
        out: the file that will be written; the run's folder and a cache lie beside it.
        hours: for the whole run.
        stage: ``ssa``, ``segmentation`` or ``classification``.
        network: ``vit``, ``unetr``, ``swin_unetr`` or ``segresnet``.
        pretrained: weight file.
        adapter: of an earlier stage.
        values: over those of the plan, by key of the configs.
        objective: of self-supervision: ``mae``, ``simmim``, ``dinov2``, ``contrastive`` or ``diet``; None for the
            bundle's own.
    """

    out: Path
    hours: float
    stage: str | None
    network: str | None
    pretrained: Path | None
    adapter: Path | None
    values: Mapping[str, Any]
    objective: str | None = None


@dataclass(frozen=True)
class Plan:
    """The choices, the promised peak of a step, and the peak that a GPU measured, None without one."""

    config_files: list[Choice]
    values: Choices
    peak: int
    measured: int | None


def plan_run(wishes: Wishes, facts: SiteFacts, computer: Computer) -> Plan:
    """Decide, and measure what the decisions rest on: three loads and five training steps are real.

    Args:
        wishes: of the user.
        facts: of the scans.
        computer: that trains.

    Returns:
        The plan.

    Raises:
        FileNotFoundError: if a weight file is missing.
        ValueError: if nothing fits, or the wishes contradict each other or the data.
    """
    stage = _stage(wishes, facts)
    network = network_choice(stage.value, wishes.pretrained, wishes.network)
    if wishes.objective is not None and stage.value != "essa_ssa":
        raise ValueError(f"--objective {wishes.objective} is for self-supervision; give --stage ssa with it")
    check_network(wishes.objective, network.value)
    config_files = _config_files(stage, network, facts, wishes)
    names = [choice.value for choice in config_files]

    given = {key: Choice(value, "--args") for key, value in wishes.values.items()}
    values = _data(wishes, facts, stage.value) | _images(facts, stage.value, network.value, given) | given
    spacing, patch = values.get("spacing", Choice([1.0, 1.0], "2-D")), values["img_size"]

    scans, held_out = _counts(facts, stage.value)
    peak_of = measured_peak(names, _plain(values))
    values |= recipe_choice(computer.budget, scans, peak_of, network.value, least_batch(wishes.objective, scans))
    values |= objective_values(wishes.objective, network.value, given.get("batch_size", values["batch_size"]).value)
    cache = wishes.out.absolute().parent / "cache"
    values |= cache_choices(facts, spacing.value, patch.value, stage.value, computer, cache) | given

    timing, measured = measured_times(names, _plain(values))
    batch = values["batch_size"].value
    windows = window_count(facts.extent, spacing.value, patch.value) if stage.value == "essa_segmentation" else 1
    counts = {"scans": scans, "batch": batch, "forwards": -(-held_out * windows // batch), "files": scans + held_out}
    values |= epoch_choices(wishes.hours, timing, counts, values["cache_rate"].value)
    own = {key: choice for key, choice in values.items() if key not in given}
    return Plan(config_files, own | given, peak_of(values["lean"].value, batch), measured)


def measured_cost(config_files: Sequence[str], values: Mapping[str, Any]) -> Callable[[str, int], StepCost]:
    """Prepare the meter for a bundle: nothing is computed, so any batch may be asked for.

    Args:
        config_files: of a bundle of monai_essa, merged in order.
        values: over those of the configs.

    Returns:
        A function of the lean recipe and the batch size: what a training step costs, the values before training that
        an adapted network keeps included in its peak.
    """

    @functools.cache
    def built(lean: str) -> tuple[ConfigParser, Any, int]:
        parser = _parser(config_files, {**values, "lean": lean})
        parser.update({key: value for key, value in _METERED.items() if key in parser})
        objective = use_recipe(parser.get_parsed_content("objective"), lean, parser.get_parsed_content("precision"))
        return parser, objective, _kept_bytes(parser)

    @functools.cache
    def cost(lean: str, batch: int) -> StepCost:
        parser, objective, kept = built(lean)
        autocast = autocast_dtype(parser.get_parsed_content("precision"))
        found = step_cost(objective, *_inputs(parser, batch), autocast=autocast)
        return replace(found, peak_bytes=found.peak_bytes + kept)

    return cost


def measured_peak(config_files: Sequence[str], values: Mapping[str, Any]) -> Callable[[str, int], int]:
    """Return a function of the lean recipe and the batch size: the bytes that a training step takes at most.

    Args:
        config_files: as for :func:`measured_cost`.
        values: over those of the configs.
    """
    cost = measured_cost(config_files, values)
    return lambda lean, batch: cost(lean, batch).peak_bytes


def measured_times(config_files: Sequence[str], values: Mapping[str, Any]) -> tuple[Timing, int | None]:
    """Load three scans, or as many as the objective compares, and take five training steps on them.

    Args:
        config_files: of a bundle of monai_essa, merged in order.
        values: over those of the configs.

    Returns:
        The seconds, and the largest use of CUDA memory, None on another device.
    """
    parser = _parser(config_files, values)
    batch = parser.get_parsed_content("batch_size")
    loads = 2 * batch if "views" in parser else _LOADS  # as many patients as an objective of views compares
    items = parser.get_parsed_content("training_items")[:loads]
    with tempfile.TemporaryDirectory() as place:
        listed = Path(place) / "dataset.json"  # as data: in a config some text would be run, and "#" has a meaning
        write_text_whole(listed, json.dumps({"training": items}))
        trial = {"datalist": str(listed), "section": "training", "max_epochs": 1, "val_interval": 1}
        trial = {key: value for key, value in trial.items() if key in parser} | {"samples_per_epoch": _STEPS * batch}
        dataset = _parser(config_files, {**values, **trial, "cache_rate": 0.0, "cache_dir": None})
        scans = dataset.get_parsed_content("train#dataset")
        begin = time.perf_counter()
        for index in range(len(scans)):
            scans[index]
        scan = (time.perf_counter() - begin) / len(scans)
        result = try_steps(_parser(config_files, {**values, **trial}), most=_STEPS, cached=True)
    return Timing(result.step_seconds, result.batch_seconds, scan), result.memory_bytes


def window_count(extent: Sequence[float], spacing: Sequence[float], patch: Sequence[int]) -> int:
    """Count the sliding windows over a scan.

    Args:
        extent: of the scan in mm.
        spacing: in mm.
        patch: in voxels.

    Returns:
        How many patches a validation of the scan takes.

    Example:
        >>> window_count((96, 96, 144), (1, 1, 1), (96, 96, 96))
        2
    """
    sides = [math.ceil(length / size) for length, size in zip(extent, spacing, strict=True)]
    steps = [math.ceil(max(0, side - width) / (width * _OVERLAP)) for side, width in zip(sides, patch, strict=True)]
    return math.prod(step + 1 for step in steps)


def plan_text(config_files: Sequence[Choice], values: Mapping[str, Choice], introduction: Sequence[str] = ()) -> str:
    """Write a plan as YAML.

    Args:
        config_files: of the bundle, merged in order.
        values: over those of the configs, by key.
        introduction: lines of comment at the top.

    Returns:
        The text; it reads back as the values.

    Raises:
        ValueError: if a value is of a kind that YAML does not hold.

    Example:
        >>> print(plan_text([Choice("train.yaml", "for all")], {"batch_size": Choice(4, "fits")}), end="")
        config_file:
        - train.yaml # for all
        batch_size: 4 # fits
    """
    document = CommentedMap()
    document["config_file"] = files = CommentedSeq(yaml_node(choice.value) for choice in config_files)
    for number, choice in enumerate(config_files):
        commented(files, number, choice.reason)
    for key, choice in values.items():
        document[key] = yaml_node(choice.value)
        commented(document, key, choice.reason)
    if introduction:
        document.yaml_set_start_comment("\n".join(map(printable, introduction)))
    return yaml_text(document)


def write_plan(path: Path, text: str) -> None:
    """Write a new file.

    Args:
        path: the file.
        text: its content.

    Raises:
        FileExistsError: if the file exists; it is left as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise FileExistsError(f"{path} exists; expected a new file: give another --out or move it away") from error


def _stage(wishes: Wishes, facts: SiteFacts) -> Choice:
    if wishes.adapter is None:
        return stage_choice(facts, wishes.stage)
    if wishes.stage == "ssa" or wishes.pretrained is None:
        raise ValueError("--adapter is for --stage segmentation and belongs to the weights of --pretrained; give both")
    return stage_choice(facts, "segmentation")


def _config_files(stage: Choice, network: Choice, facts: SiteFacts, wishes: Wishes) -> list[Choice]:
    flat = facts.spatial_dims == 2
    modality = Choice(None if flat else facts.modality, facts.modality_reason)
    images = [Choice("images_2d.yaml", "the images are 2-D")] if flat else []
    images += [Choice(name, f"--objective {wishes.objective}") for name in objective_overlay(wishes.objective)]
    overlays = overlay_choices(stage.value, network, modality, wishes.pretrained is not None, images)
    files = [Choice("train.yaml", stage.reason), *overlays]
    configs = bundle_folder(stage.value) / "configs"
    return [Choice(str(configs / choice.value), choice.reason) for choice in files]


def _images(facts: SiteFacts, stage: str, network: str, given: Choices) -> Choices:
    """Choose spacing and crop; a 2-D image is resized as a whole, and a classification sees whole scans."""
    if facts.spatial_dims == 3 and stage != "essa_classification":
        spacing = given.get("spacing") or spacing_choice(facts)
        return {"spacing": spacing, "img_size": given.get("img_size") or patch_choice(facts, spacing.value, network)}
    task = stage.removeprefix("essa_") if stage != "essa_ssa" or facts.by_voxel else "classification"
    kind, side = network.replace("unetr", "vit") if network == "unetr" else network, SIDE
    chosen = images_for(task, facts, Network(network, kind, {}, 0, side), facts.classes, several=False)
    why = "the whole image" if facts.spatial_dims == 2 else "the whole scan, in steps of the network"
    values = {"img_size": Choice(list(chosen.img_size), f"{why}, at most {side} a side")}
    if chosen.spacing is not None:
        values["spacing"] = Choice(list(chosen.spacing), "so coarse that the crop holds the median scan")
    return values | {key: Choice(value, "some eight patches along a side") for key, value in chosen.further.items()}


def _counts(facts: SiteFacts, stage: str) -> tuple[int, int]:
    """Count the scans to train on and those held out; essa_ssa holds out each tenth, but never the only one."""
    if stage != "essa_ssa":
        return facts.labelled, facts.validation
    held_out = -(-facts.scans // 10)
    return max(1, facts.scans - held_out), held_out


def _data(wishes: Wishes, facts: SiteFacts, stage: str) -> Choices:
    values = {"dataset_dir": Choice(str(facts.datalist.parent), "holds the data list")}
    if facts.datalist.name != "dataset.json":
        made = facts.datalist.name == f"{wishes.out.stem}_dataset.json"
        values["datalist"] = Choice(
            str(facts.datalist), "made from the folder, split by patient" if made else "of the site"
        )
    if stage != "essa_ssa":
        values["labels"] = Choice(dict(facts.classes), "names and ids of the data list, else the ids in the label maps")
    elif len(facts.sections) > 1:
        values["section"] = Choice(list(facts.sections), "self-supervision reads no labels, so their images may join")
    run = wishes.out.absolute().parent / "runs" / wishes.out.stem
    values["output_dir"] = Choice(str(run), "beside this file; a finished run is never overwritten")
    values["in_channels"] = Choice(facts.channels, f"of the {facts.read} scans that were read")
    values |= _start(wishes, stage)
    check_config_value(_plain(values), "the plan")  # names of files and labels; only code of ours may hold expressions
    return values


def _start(wishes: Wishes, stage: str) -> Choices:
    if wishes.pretrained is None:
        return {}
    weights = {"pretrained": Choice(str(wishes.pretrained.absolute()), "--pretrained")}
    if stage == "essa_ssa":
        return weights
    if wishes.adapter is None:
        return weights | {"start": Choice("encoder", "from the weights, without an adapter of an earlier stage")}
    adapter = Choice(str(wishes.adapter.absolute()), "--adapter")
    return weights | {"start": Choice("adapter", "the methods of the adapter file train on"), "adapter": adapter}


def _plain(values: Choices) -> dict[str, Any]:
    return {key: choice.value for key, choice in values.items()}


def _inputs(parser: ConfigParser, batch: int) -> list[torch.Tensor]:
    """Return what an objective is called with: images, and labels or the mask of the foreground."""
    channels, sides = _image_channels(parser), parser.get_parsed_content("img_size")
    images = torch.empty(batch, channels, *sides, device="meta")
    if "views" in parser:
        sizes = [sides, parser.get_parsed_content("local_size")]
        objective, views = parser.get_parsed_content("objective"), parser.get_parsed_content("views")
        return empty_views(objective, batch, channels, views, sizes)
    if "encoder_def" in parser:
        classes, several = len(parser.get_parsed_content("labels")), parser.get_parsed_content("multi_label")
        labels = torch.empty(batch, classes) if several else torch.empty(batch, dtype=torch.int64)
        return [images, labels.to("meta")]
    if "labels" in parser:
        return [images, torch.empty(batch, 1, *sides, device="meta")]  # ids as MONAI loads them
    if not parser.get_parsed_content("weight_foreground"):
        return [images]
    return [images, torch.empty(batch, 1, *sides, device="meta", dtype=torch.bool)]


def _image_channels(parser: ConfigParser) -> int:
    """Return the channels that the network of a config reads.

    A described encoder knows its own, which a transform of the images may have made of theirs.
    """
    encoder = parser.get_parsed_content("encoder_def" if "encoder_def" in parser else "network_def")
    view: Any = encoder_view(encoder) if described(encoder) is not None else None
    return int(parser.get_parsed_content("in_channels") if view is None else view.in_channels)


def _kept_bytes(parser: ConfigParser) -> int:
    """Count the values before training that an adapted network keeps: on the CPU, so they take nothing from a GPU."""
    if parser.get_parsed_content("device").type != "cpu":
        return 0
    return sum(value.nbytes for value in adaptation_of(parser.get_parsed_content("network")).base.values())


def _parser(config_files: Sequence[str], values: Mapping[str, Any]) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(list(config_files))
    parser.update(dict(values))
    return parser
