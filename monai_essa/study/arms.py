# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The arms of a study as stages: what is pre-trained, adapted, fine-tuned and tested, from which start and how long."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_essa.bundling.folder import bundle_folder
from monai_essa.planning.networks import Images, Network
from monai_essa.planning.objectives import objective_overlay, objective_values
from monai_essa.study.stages import Stage

__all__ = ["ARMS", "CHECK_OF_RATES", "FLOORS", "Arm", "Place", "StudyDesign", "config_keys"]

_COST = "train#handlers#2#_disabled_"  # CostFile: what a step takes is the same in each repeat
_DIVISOR = 3.0  # of the learning rates, for the arms that check them
_PRETEXT_RATE = {2: 1.5e-3, 3: 1.0e-3}  # of every parameter from nothing, by dimension: docs/studies
_OF_BASE = (None, "mae")  # objectives whose head the pre-training of a base leaves
_TITLES = {"ssa": "SSA", "full_ssa": "SSA with every parameter", "tpp": "TPP"}
# On labels, by task. A new decoder needs more than the 1.0e-3 of the overlays (docs/studies/verdicts.md); at that rate
# an encoder would lose what it learned from other data.
_RATES = {
    "segmentation": {"apla": 3.0e-3, "lora_conv": 5.0e-3, "head": 3.0e-3, "full": 3.0e-3},
    "classification": {"apla": 1.0e-3, "lora_conv": 5.0e-3, "head": 1.0e-3, "full": 3.0e-4},
}
_HEAD_RATE = 3.0e-3  # of a classification's new head, whatever the encoder's is
_FULL_RATES_OF_GIVEN = {"segmentation": 1.0e-3, "classification": 3.0e-4}


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
    Arm("scratch", "from scratch"),
    Arm("full", "full fine-tuning"),
    Arm("no_ssa_longer", "PEFT, with SSA's time too"),
    Arm("ssa_third", "SSA, then PEFT, at a third of the rate", "ssa", slower=True),
    Arm("no_ssa_third", "PEFT, at a third of the rate", slower=True),
    Arm("tpp", "TPP, then PEFT", "tpp"),
    Arm("head", "head (or decoder) alone"),
    Arm("full_ssa", "full-parameter SSA, then PEFT", "full_ssa"),
)
"""In the order of importance: if the hours are short, arms are dropped from the end."""
_RIDGE = Arm("floor_features", "ridge regression on features of the frozen base", "base")
FLOORS: Mapping[str, tuple[Arm, ...]] = {
    "segmentation": (Arm("floor_atlas", "atlas vote"), _RIDGE),
    "classification": (Arm("floor_voxels", "ridge regression on voxels"), _RIDGE),
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
        overlays: the user's config by name of the bundle that it lies over.
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
    overlays: Mapping[str, str] = field(default_factory=dict)
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
        values = self._schedule("train", "batch") | {"lr": self._rate("apla" if scratch else method)} | start
        values |= {"section": place.section("training"), "labels": dict(self.images.labels)}
        if self.task == "segmentation":
            values["feature_size"] = network.feature_size
        else:
            values["head_lr_factor"] = round(_HEAD_RATE / values["lr"], 4)
        values = self._complete(self.bundle, network, self._own(name, place) | values)
        if scratch:
            values["feature_size"] = network.feature_size  # the user's is that of the network of the other arms
            values |= {} if network.in_channels is None else {"encoder_def#in_channels": network.in_channels}
        if arm.slower:
            values["lr"] /= _DIVISOR
        if arm.name == "no_ssa_longer":
            values["max_epochs"] += math.ceil(values["max_epochs"] * self.sizes["ssa_share"])
        last = (*overlay, *(("loss_bce.yaml",) if self.images.several else ()), *self.images.intensity_overlay)
        own = self._users(self.bundle)
        last += (*own, *(network.overlay if scratch and own else ()), "last_epoch.yaml")  # not its encoder from scratch
        configs = ("train.yaml", *network.overlay, *self.images.flat_overlay, *last)
        return Stage(name, f"{arm.title}: training", self.bundle, configs, values)

    def test(self, name: str, training: Stage, place: Place) -> Stage:
        """Score a finished training on the test patients."""
        configs = tuple(config for config in training.configs if config != "last_epoch.yaml")
        own = {"validation_section": place.section("test"), "report#resamples": 0}  # the verdict has the intervals
        values = {**training.values, **own, **self._kept(training.name)}
        title = training.title.replace(": training", ": test")
        return Stage(name, title, training.bundle, (*configs, "evaluate.yaml"), values)

    def floor(self, name: str, floor: Arm, training: Stage, place: Place) -> Stage:
        """Score a closed form on the test patients, with the images of a training."""
        test = self.test(name, training, place)
        over_voxels = (self.task, floor.name) == ("classification", "floor_features")
        overlays = ["floor_voxels.yaml"] if over_voxels else []
        values = {key: value for key, value in test.values.items() if key != "adapter"}
        values |= {"output_dir": str(self._run(name)), **self._kept(name)}
        return replace(test, title=floor.title, configs=(*test.configs, *overlays, f"{floor.name}.yaml"), values=values)

    def _run(self, name: str) -> Path:
        return self.folder / "runs" / name

    def _kept(self, run: str) -> dict[str, Any]:
        """Return what lets a test keep its predictions: the table of a classification holds them anyway."""
        return {"masks": str(self._run(run) / "test" / "masks")} if self.task == "segmentation" else {}

    def _rate(self, method: str) -> float:
        given = method == "full" and self.pretrained is not None
        return _FULL_RATES_OF_GIVEN[self.task] if given else _RATES[self.task][method]

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
        simmim = self.network.described and not objective_overlay(self.objective)
        last = (*(("objective_simmim.yaml",) if simmim else ()), *self._users(stage.bundle))
        return replace(stage, configs=("train.yaml", *overlays, *last), values=values)

    def _users(self, bundle: str) -> tuple[str, ...]:
        """Return the user's overlay of a bundle, which comes after all that the study chooses."""
        return (self.overlays[bundle],) if bundle in self.overlays else ()

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
        channels = self.network.in_channels
        return Network(
            "SegResNet", "segresnet", {"feature_size": width}, width, self.network.side, in_channels=channels
        )

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
