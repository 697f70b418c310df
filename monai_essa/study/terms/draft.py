# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A draft of a study: what fits the computer and the hours, from which the plan is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from monai_essa.planning.choices import Computer
from monai_essa.planning.site import ImageFacts
from monai_essa.planning.study_plan import PlannedStage
from monai_essa.study.arms import Arm, StudyDesign
from monai_essa.study.hours import Memory
from monai_essa.study.scans import SiteScans
from monai_essa.study.stages import Stage
from monai_essa.study.terms.partition import Partition

__all__ = ["Draft", "Surroundings"]


@dataclass(frozen=True)
class Surroundings:
    """What a plan is made for.

    Attributes:
        site: the scans and labels.
        parts: how the patients are parted.
        facts: of the scans.
        computer: that trains.
        folder: of the study, absolute.
        overlays: the user's config by name of the bundle that it lies over.
    """

    site: SiteScans
    parts: Partition
    facts: ImageFacts
    computer: Computer
    folder: Path
    overlays: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Draft:
    """A study that fits.

    Attributes:
        design: of its stages.
        arms: that remain.
        dropped: ``name`` and ``reason`` of the others.
        parts: with the repeats that fit.
        stages: as the plan lists them, each with what it runs.
        memory: of a step; None where it was not measured.
        provisional: why no word may be said; None if one may.
        notes: lines about what was refused.
        rates: on whom learning rates are tried, or why none is; empty with few labels.
        map_bytes: of a predicted label map; 0 for a classification.
    """

    design: StudyDesign
    arms: Sequence[Arm]
    dropped: Sequence[Mapping[str, str]]
    parts: Partition
    stages: Sequence[tuple[PlannedStage, Stage]]
    memory: Memory | None
    provisional: str | None
    notes: Sequence[str]
    rates: str = ""
    map_bytes: float = 0.0

    @property
    def seconds(self) -> float:
        """Return the seconds of all stages, the refit of one arm among them."""
        refits = [planned.seconds for planned, _ in self.stages if planned.kind == "refit"]
        others = sum(planned.seconds for planned, _ in self.stages if planned.kind != "refit")
        return others + 3 * max(refits, default=0.0)  # base, SSA and training at most

    @property
    def disk(self) -> float:
        """Return the bytes that stay: model.pt, an adapter of that size at most, a resume file, label maps of tests."""
        weights = 0 if self.memory is None else self.memory.weights
        trainings = sum(planned.kind not in ("trial_test", "test", "floor", "refit") for planned, _ in self.stages)
        tests = [planned for planned, _ in self.stages if planned.kind in ("test", "floor")]
        maps = sum(len(self.parts.repeats[each.repeat - 1][each.fold - 1].test) for each in tests)
        return (2.0 * trainings + 6.0) * weights + maps * self.map_bytes
