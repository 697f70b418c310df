# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a user asks of a study, and what of it is refused before anything is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_essa.outside import check_config_value, shown
from monai_essa.planning.networks import Network
from monai_essa.planning.objectives import objective_overlay
from monai_essa.planning.overlay import Overlay, write_overlays
from monai_essa.study.arms import config_keys
from monai_essa.study.splits import SplitRequest
from monai_essa.study.stages import Timings

__all__ = ["AdaptRequest", "Preset", "StudyRequest", "check_values", "written_overlays"]

_FIXED = {"output_dir", "datalist", "dataset_dir", "section", "validation_section", "pretrained", "adapter", "seed"}
_FIXED |= {"start", "labels", "device", "bundle_root", "limit", "stage", "dry_run", "imports", "initialize", "run"}


@dataclass(frozen=True)
class Preset:
    """A study whose size is fixed beforehand, such as the demo's.

    Attributes:
        arms: names of :data:`monai_essa.study.arms.ARMS`.
        steps: on labels.
        network: that all arms share.
        timings: about what its stages take.
        reason: why its result is provisional.
    """

    arms: Sequence[str]
    steps: int
    network: Network
    timings: Timings
    reason: str


@dataclass(frozen=True)
class StudyRequest:
    """What a user asks of a study, beside its scans.

    Attributes:
        pretrained: the base: a file, ``family:NAME`` or ``bundle:DIR``; None makes one here.
        hours: for everything.
        values: over those of the plan, by key of the configs.
        seed: of the draws and the trainings.
        preset: a size that is fixed beforehand, instead of what fits the hours.
        overlay: a config over those of every stage, whose plain values are among ``values``.
        objective: of SSA and TPP; None for that of the bundles.
    """

    pretrained: str | None = None
    hours: float = 8.0
    values: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    preset: Preset | None = None
    overlay: Overlay | None = None
    objective: str | None = None


@dataclass(frozen=True)
class AdaptRequest:
    """Everything that a user asks of a study.

    Attributes:
        scans: a folder, a data list or an NPZ file.
        labels: a folder of label maps or a table of classes; None where the scans have them.
        task: ``segmentation`` or ``classification``; None for what the labels are made for.
        split: of the patients.
        study: base, hours and values.
        memory: bytes to plan for; None for those of this computer.
        margin: how much worse a simpler arm may be without consequence.
        rivals: label maps or tables of other tools for the tested patients, by name.
    """

    scans: Path
    labels: Path | None = None
    task: str | None = None
    split: SplitRequest = field(default_factory=SplitRequest)
    study: StudyRequest = field(default_factory=StudyRequest)
    memory: int | None = None
    margin: float = 0.02
    rivals: Mapping[str, Path] = field(default_factory=dict)

    def canonical(self) -> dict[str, Any]:
        """Return the request as plain values: an equal one goes on in the same folder."""
        return {
            "scans": str(self.scans.absolute()),
            "labels": None if self.labels is None else str(self.labels.absolute()),
            "task": self.task,
            "pretrained": self.study.pretrained,
            "memory": self.memory,
            "hours": self.study.hours,
            "label_count": self.split.label_count,
            "margin": self.margin,
            "transductive": self.split.transductive,
            "repeats": self.split.repeats,
            "seed": self.split.seed,
            "values": json.loads(json.dumps(dict(self.study.values))),
        } | self._optional()

    def _optional(self) -> dict[str, Any]:
        """Return what few requests have."""
        overlay = {} if self.study.overlay is None else {"overlay": self.study.overlay.canonical()}
        objective = {} if self.study.objective is None else {"objective": self.study.objective}
        further = {"further_labels": list(self.split.further)} if self.split.further else {}
        return overlay | objective | further


def check_values(study: StudyRequest) -> None:
    """Refuse values that no config has, that the study itself sets, or that would be code in a config."""
    own, tasks = objective_overlay(study.objective), ("ssa", "tpp", "segmentation", "classification")
    known = set().union(*(config_keys(f"essa_{name}", own) for name in tasks))
    for key in (*study.values, *(() if study.overlay is None else study.overlay.parts)):
        first = key.removeprefix("+").partition("#")[0]
        if first in _FIXED:
            raise ValueError(f"{shown(key)}: the study sets this itself; leave it out")
        if first not in known:
            raise ValueError(f"{shown(key)}: expected a key of a train.yaml, such as batch_size")
    for key, value in study.values.items():
        check_config_value(value, key)


def written_overlays(study: StudyRequest, task: str, folder: Path) -> dict[str, str]:
    """Write what the user's overlay puts over each bundle; return the files by the names of the bundles."""
    if study.overlay is None:
        return {}
    if study.overlay.describes and task != "classification":
        raise ValueError(
            f"{study.overlay.name} describes an encoder, which has no decoder for a {task}; give --task classification "
            "with classes as labels, or weights of one of MONAI's networks"
        )
    known = {bundle: config_keys(bundle) for bundle in ("essa_ssa", "essa_tpp", f"essa_{task}")}
    return write_overlays(study.overlay, known, folder / "overlays")
