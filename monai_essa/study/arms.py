# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The arms of a study as stages: what is pre-trained, adapted, fine-tuned and tested, from which start and how long."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_essa.bundling.folder import bundle_folder
from monai_essa.planning.networks import Images, Network
from monai_essa.planning.objectives import objective_overlay, objective_values
from monai_essa.planning.study_plan import PlannedStage
from monai_essa.study.splits import Fold, Partition
from monai_essa.study.stages import Stage, Timings

__all__ = [
    "ARMS",
    "CHECK_OF_RATES",
    "FLOORS",
    "Arm",
    "Place",
    "StudyDesign",
    "config_keys",
    "listed_stages",
    "refit_stages",
    "training_steps",
]

_COST = "train#handlers#2#_disabled_"  # CostFile: what a step takes is the same in each repeat
_DIVISOR = 3.0  # of the learning rates, for the arms that check them
_PRETEXT_RATE = {2: 1.5e-3, 3: 1.0e-3}  # of every parameter from nothing, by dimension: docs/studies
_FULL_RATE = 3.0e-4  # between that of SSA with every parameter and that of a decoder, which learn together here
_OF_BASE = (None, "mae")  # objectives whose head the pre-training of a base leaves
_TITLES = {"ssa": "SSA", "full_ssa": "SSA with every parameter", "tpp": "TPP"}
_RATES = {"apla": 1.0e-3, "lora_conv": 5.0e-3, "head": 1.0e-3, "full": _FULL_RATE}  # of the overlays, but for full


@dataclass(frozen=True)
class Arm:
    """One procedure that a study compares.

    Attributes:
        name: in files.
        title: for people.
        before: the self-supervised stage that it starts from: ``ssa``, ``tpp``, ``full_ssa``; None starts at the base.
        slower: whether its learning rate is a third of the others'.
    """

    name: str
    title: str
    before: str | None = None
    slower: bool = False


ARMS: tuple[Arm, ...] = (
    Arm("ssa", "SSA, then PEFT", "ssa"),
    Arm("no_ssa", "PEFT"),
    Arm("full", "full fine-tuning"),
    Arm("no_ssa_longer", "PEFT, with SSA's time too"),
    Arm("ssa_third", "SSA, then PEFT, at a third of the rate", "ssa", slower=True),
    Arm("no_ssa_third", "PEFT, at a third of the rate", slower=True),
    Arm("tpp", "TPP, then PEFT", "tpp"),
    Arm("head", "head (or decoder) alone"),
    Arm("scratch", "from scratch"),
    Arm("full_ssa", "full-parameter SSA, then PEFT", "full_ssa"),
)
"""In the order of importance: if the hours are short, arms are dropped from the end."""
FLOORS: Mapping[str, tuple[Arm, ...]] = {
    "segmentation": (Arm("floor_atlas", "atlas vote"),),
    "classification": (
        Arm("floor_voxels", "ridge regression on voxels"),
        Arm("floor_features", "ridge regression on features of the frozen base", "base"),
    ),
}
"""What a network should pass, by task: closed forms, in which nothing trains."""
CHECK_OF_RATES = ("ssa_third", "no_ssa_third")
"""Arms that are in a study together or not at all."""


@dataclass(frozen=True)
class Place:
    """Where a stage stands: the number of its repeat and fold, both from 1 on; 0 and 0 train on everything."""

    repeat: int
    fold: int

    def section(self, name: str) -> str:
        """Return a section of the data list.

        Example:
            >>> Place(1, 2).section("training")
            'repeat_1#fold_2#training'
        """
        return f"repeat_{self.repeat}#fold_{self.fold}#{name}" if self.repeat else f"all#{name}"


@dataclass(frozen=True)
class StudyDesign:
    """Compose the stages of a study; nothing here reads the data or the clock.

    Attributes:
        task: ``segmentation`` or ``classification``.
        images: of the site.
        network: that all arms share, but for ``scratch``.
        pretrained: the base: a file, ``family:NAME`` or ``bundle:DIR``; None makes it on the site's own scans.
        steps: by kind of stage (``base``, ``ssa``, ``train``) the number of training steps.
        sizes: ``pretext_batch`` and ``batch``, the recipe ``lean``, the folder ``cache_dir`` or None,
            ``ssa_share``: the time of SSA as a share of that of a training, and ``patients``: that SSA learns from.
        values: the user's, over those of every stage whose bundle has the key.
        folder: of the study, absolute.
        seed: of the study.
        objective: of SSA and TPP; None for that of the bundles, by which a base is pre-trained too.
    """

    task: str
    images: Images
    network: Network
    pretrained: str | None
    steps: Mapping[str, int]
    sizes: Mapping[str, Any]
    values: Mapping[str, Any]
    folder: Path
    seed: int = 0
    objective: str | None = None

    @property
    def bundle(self) -> str:
        """Return the bundle of the task."""
        return f"essa_{self.task}"

    def base(self, name: str, place: Place) -> Stage:
        """Pre-train every parameter of the encoder on the scans that SSA may see: the base of all arms but one."""
        values = self._schedule("base", "pretext_batch") | {"lr": _PRETEXT_RATE[self.images.spatial_dims]}
        return self._pretext(Stage(name, "pre-training of the base", "essa_ssa", ("method_full.yaml",), values), place)

    def adaptation(self, name: str, kind: str, place: Place, base: str | None) -> Stage:
        """Adapt the base to the scans without labels.

        Args:
            name: of the stage.
            kind: ``ssa``: the method of the study; ``full_ssa``: every parameter; ``tpp``: what the method adds.
            place: of the stage.
            base: run of the base that was made here; None: the weights that were given.
        """
        values = self._schedule("ssa", "pretext_batch") | self._start(base)
        if base is not None and self.objective in _OF_BASE:
            values["pretext_head"] = str(self._run(base) / "pretext_head.safetensors")
        patients = min(self.sizes["pretext_batch"], self.sizes["patients"])
        left_out = objective_values(self.objective, self.network.kind, patients)
        values |= {key: choice.value for key, choice in left_out.items()}
        method = "full" if kind == "full_ssa" else self.network.method
        bundle = "essa_tpp" if kind == "tpp" else "essa_ssa"
        configs = (*objective_overlay(self.objective), f"method_{method}.yaml")
        return self._pretext(Stage(name, _TITLES[kind], bundle, configs, values), place)

    def training(self, name: str, arm: Arm, place: Place, before: Mapping[str, str]) -> Stage:
        """Train an arm on the labels, as many steps as each other arm.

        Args:
            name: of the stage.
            arm: the arm.
            place: of the stage.
            before: runs of the stages that it may start from, by kind: ``base``, ``ssa``, ``tpp``, ``full_ssa``.
        """
        scratch = arm.name == "scratch"
        network = self._scratch() if scratch else self.network
        method = {"full": "full", "head": "head"}.get(arm.name, network.method)
        overlay, start = (("start_random.yaml",), {}) if scratch else self._begin(arm, f"method_{method}.yaml", before)
        values = self._schedule("train", "batch") | {"lr": _RATES["apla" if scratch else method]} | start
        values |= {"section": place.section("training"), "labels": dict(self.images.labels)}
        if self.task == "segmentation":
            values["feature_size"] = network.feature_size
        values = self._complete(self.bundle, network, self._own(name, place) | values)
        if scratch:
            values["feature_size"] = network.feature_size  # the user's is that of the network of the other arms
        if arm.slower:
            values["lr"] /= _DIVISOR
        if arm.name == "no_ssa_longer":
            values["max_epochs"] += math.ceil(values["max_epochs"] * self.sizes["ssa_share"])
        last = (*overlay, *(("loss_bce.yaml",) if self.images.several else ()), *self.images.intensity_overlay)
        configs = ("train.yaml", *network.overlay, *self.images.flat_overlay, *last, "last_epoch.yaml")
        return Stage(name, f"{arm.title}: training", self.bundle, configs, values)

    def test(self, name: str, training: Stage, place: Place) -> Stage:
        """Score a finished training on the test patients."""
        configs = tuple(config for config in training.configs if config != "last_epoch.yaml")
        own = {"validation_section": place.section("test"), "report#resamples": 0}  # the verdict has the intervals
        values = {**training.values, **own}
        title = training.title.replace(": training", ": test")
        return Stage(name, title, training.bundle, (*configs, "evaluate.yaml"), values)

    def floor(self, name: str, floor: Arm, training: Stage, place: Place) -> Stage:
        """Score a closed form on the test patients, with the images of a training."""
        test = self.test(name, training, place)
        overlays = ["floor_voxels.yaml"] if floor.name == "floor_features" else []
        values = {key: value for key, value in test.values.items() if key != "adapter"}
        values |= {"output_dir": str(self._run(name))}
        return replace(test, title=floor.title, configs=(*test.configs, *overlays, f"{floor.name}.yaml"), values=values)

    def _run(self, name: str) -> Path:
        return self.folder / "runs" / name

    def _own(self, name: str, place: Place) -> dict[str, Any]:
        values = {
            "output_dir": str(self._run(name)),
            "datalist": str(self.folder / "datalist.json"),
            "seed": 1000 * self.seed + place.repeat,
            "lean": self.sizes["lean"],
            "cache_dir": self.sizes["cache_dir"],
        }
        return values if place == Place(1, 1) else values | {_COST: True}

    def _schedule(self, kind: str, batch: str) -> dict[str, Any]:
        """Spread the steps of a kind over epochs, at the end of each of which a killed run can go on."""
        steps, size = self.steps[kind], self.sizes[batch]
        epochs = next(count for count in (10, 6, 5, 4, 3, 2, 1) if steps % count == 0)
        return {"max_epochs": epochs, "samples_per_epoch": steps // epochs * size, "batch_size": size}

    def _pretext(self, stage: Stage, place: Place) -> Stage:
        """Complete a self-supervised stage; its validation loss is computed once, since it chooses no epoch."""
        own = self._own(stage.name, place) | {"section": place.section("unlabeled")}
        values = self._complete(stage.bundle, self.network, own | dict(stage.values), stage.configs)
        values["val_interval"] = values["max_epochs"]
        overlays = (*self.network.overlay, *self.images.flat_overlay, *stage.configs, *self.images.intensity_overlay)
        return replace(stage, configs=("train.yaml", *overlays), values=values)

    def _begin(self, arm: Arm, method: str, before: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Let an arm start at the base, at an adapter on it, or at an encoder that an earlier stage has merged."""
        base = self._start(before.get("base"))
        if arm.before is None:
            return (method,), {"start": "encoder"} | base
        run = self._run(before[arm.before])
        if arm.before == "full_ssa" or (arm.before == "ssa" and self.network.adds_tensors):
            return (method,), {"start": "encoder", "pretrained": str(run / "model.pt")}
        return (), {"start": "adapter"} | base | {"adapter": str(run / "adapter.safetensors")}

    def _start(self, base: str | None) -> dict[str, Any]:
        return {"pretrained": self.pretrained if base is None else str(self._run(base) / "model.pt")}

    def _scratch(self) -> Network:
        width = 8 * max(1, round(self.network.feature_size / 8))  # of its group norms
        return Network("SegResNet", "segresnet", {"feature_size": width}, width, self.network.side)

    def _complete(
        self, bundle: str, network: Network, values: Mapping[str, Any], overlays: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Put the values of images and network below those of a stage, and the user's above, as far as it has them."""
        known = config_keys(bundle, (*network.overlay, *overlays))
        shared = {_renamed(key, bundle): value for key, value in (self.images.values() | dict(network.values)).items()}
        fitting, wanted = (
            {key: value for key, value in source.items() if key.partition("#")[0] in known}
            for source in (shared, self.values)
        )
        return fitting | dict(values) | wanted


def listed_stages(
    design: StudyDesign, timings: Timings, arms: Sequence[Arm], parts: Partition
) -> list[tuple[PlannedStage, Stage]]:
    """List the stages of a study repeat by repeat, so that one that is stopped has whole repeats.

    Args:
        design: of the stages.
        timings: of this computer.
        arms: that take part; without any, the base and SSA alone.
        parts: how the patients are parted.

    Returns:
        Each stage as the plan lists it, with what it runs.
    """
    listing = _Listing(design, timings)
    for repeat, folds in enumerate(parts.repeats, 1):
        shared: dict[str, str] = {}
        for number, fold in enumerate(folds, 1):
            place = Place(repeat, number)
            if number == 1 or parts.ssa_by_fold:
                shared = listing.add_before([arm.before for arm in arms if arm.before] or ["ssa"], place, fold)
            for arm in arms:
                listing.add_arm(arm, place, fold, shared)
            if arms:
                listing.add_floors(place, fold, shared)
    return listing.stages


def refit_stages(
    design: StudyDesign, timings: Timings, arms: Sequence[Arm], everything: Fold
) -> list[tuple[PlannedStage, Stage]]:
    """List what trains each arm once more on all labels; only the stages of the exported arm will run.

    Args:
        design: of the stages.
        timings: of this computer.
        arms: that may be exported: not those that check the rates.
        everything: all scans.
    """
    listing, place = _Listing(design, timings), Place(0, 0)
    arms = [arm for arm in arms if not arm.slower]
    before = listing.add_before([arm.before for arm in arms if arm.before], place, everything)
    for arm in arms:
        listing.add_arm(arm, place, everything, before)
    return [(replace(planned, kind="refit"), stage) for planned, stage in listing.stages]


def training_steps(stage: Stage) -> int:
    """Return the number of training steps of a stage that trains, with the user's values in it."""
    values = stage.values
    return int(values["max_epochs"]) * math.ceil(values["samples_per_epoch"] / values["batch_size"])


@cache
def config_keys(bundle: str, overlays: tuple[str, ...] = ()) -> frozenset[str]:
    """Return the ids at the top of a bundle's train.yaml and of overlays, which a user may set.

    Args:
        bundle: its name.
        overlays: names of config files over train.yaml; one that the bundle lacks has none.
    """
    configs = bundle_folder(bundle) / "configs"
    files = [configs / name for name in ("train.yaml", *overlays)]
    return frozenset(key for file in files if file.is_file() for key in ConfigParser.load_config_file(file))


def _renamed(key: str, bundle: str) -> str:
    """Return a key of the network as the bundle has it: a classification has its encoder under another name."""
    return key.replace("network_def#", "encoder_def#") if bundle == "essa_classification" else key


class _Listing:
    """A list of stages that grows, each with a number in its name."""

    def __init__(self, design: StudyDesign, timings: Timings) -> None:
        self.design = design
        self.timings = timings
        self.stages: list[tuple[PlannedStage, Stage]] = []

    def add_before(self, kinds: Sequence[str], place: Place, fold: Fold) -> dict[str, str]:
        """Add the base and the self-supervised stages; return their names by kind."""
        names: dict[str, str] = {}
        if self.design.pretrained is None:
            names["base"] = self._name(place, "base")
            self._add("base", None, place, self.design.base(names["base"], place), (), len(fold.unlabeled))
        for kind in dict.fromkeys(kinds):
            name = self._name(place, kind.replace("_", "-"))
            stage = self.design.adaptation(name, kind, place, names.get("base"))
            needs = tuple(names[each] for each in ("base",) if each in names)
            self._add(kind, kind if kind == "full_ssa" else None, place, stage, needs, len(fold.unlabeled))
            names[kind] = name
        return names

    def add_arm(self, arm: Arm, place: Place, fold: Fold, before: Mapping[str, str]) -> None:
        """Add the training and the test of an arm."""
        used = (
            () if arm.name == "scratch" else tuple(before[key] for key in ("base", arm.before or "") if key in before)
        )
        name = self._name(place, f"{arm.name}-train".replace("_", "-"))
        training = self.design.training(name, arm, place, before)
        self._add("train", arm.name, place, training, used, len(fold.training))
        if fold.test:
            test = self.design.test(self._name(place, f"{arm.name}-test".replace("_", "-")), training, place)
            seconds = self.timings.testing(len(fold.test))
            row = PlannedStage(test.name, "test", arm.name, place.repeat, place.fold, name, (name,), round(seconds, 1))
            self.stages.append((row, test))

    def add_floors(self, place: Place, fold: Fold, before: Mapping[str, str]) -> None:
        """Add the floors of a fold, on the images of the arm that starts at the base."""
        start = next(arm for arm in ARMS if arm.name == "no_ssa")
        for floor in FLOORS[self.design.task]:
            name = self._name(place, floor.name.replace("_", "-"))
            stage = self.design.floor(name, floor, self.design.training(name, start, place, before), place)
            needs = (before["base"],) if floor.before in before else ()
            seconds = self.timings.testing(len(fold.test)) + self.timings.scan * len(fold.training)
            row = PlannedStage(name, "floor", floor.name, place.repeat, place.fold, name, needs, round(seconds, 1))
            self.stages.append((row, stage))

    def _name(self, place: Place, what: str) -> str:
        if not place.repeat:
            return f"refit-{what}"
        return f"{len(self.stages) + 1:02d}-r{place.repeat}f{place.fold}-{what}"

    def _add(self, kind: str, arm: str | None, place: Place, stage: Stage, needs: tuple[str, ...], scans: int) -> None:
        seconds = round(self.timings.training(kind, arm, training_steps(stage), scans), 1)
        listed = "ssa" if kind == "full_ssa" else kind
        row = PlannedStage(stage.name, listed, arm, place.repeat, place.fold, stage.name, needs, seconds)
        self.stages.append((row, stage))
