# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The stages of a study in the order in which they run, each with a number in its name and the seconds it may take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from monai_essa.planning.study_plan import PlannedStage
from monai_essa.study.arms import ARMS, FLOORS, Arm, Place, StudyDesign
from monai_essa.study.stages import Stage, Timings
from monai_essa.study.terms.partition import Fold, Partition

__all__ = ["MULTIPLIERS", "TRIED_AS", "is_tried", "listed_stages", "refit_stages", "training_steps"]

_HELD_OUT = 10  # hold_out of the self-supervised bundles: each tenth patient is for validation
MULTIPLIERS = (1 / 3, 1.0, 3.0)
"""Of the default learning rate, the same for each arm."""
TRIED_AS = {"no_ssa_longer": "no_ssa"}
"""Arms that take the rate of another one, of which they are the same procedure for longer."""


def is_tried(arm: Arm) -> bool:
    """Tell whether the rate of an arm is tried: not where the arm checks a rate, or takes that of another."""
    return not arm.slower and arm.name not in TRIED_AS


def listed_stages(
    design: StudyDesign, timings: Timings, arms: Sequence[Arm], parts: Partition, trials: bool = False
) -> list[tuple[PlannedStage, Stage]]:
    """List the stages of a study repeat by repeat, so that one that is stopped has whole repeats.

    Args:
        design: of the stages.
        timings: of this computer.
        arms: that take part; without any, the base and SSA alone.
        parts: how the patients are parted.
        trials: whether the learning rate of each arm is tried first, on the patients that ``parts`` sets aside.

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
            if trials and parts.trial is not None and (repeat, number) == (1, 1):
                listing.add_trials([arm for arm in arms if is_tried(arm)], place, parts.trial, shared)
            for arm in arms:
                listing.add_arm(arm, place, fold, shared)
            for labels in fold.further:
                for arm in (arm for arm in arms if not arm.slower):
                    listing.add_arm(arm, place, fold, shared, labels)
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


def _starts(arm: Arm, before: Mapping[str, str]) -> tuple[str, ...]:
    """Return the stages that a training starts from."""
    return () if arm.name == "scratch" else tuple(before[key] for key in ("base", arm.before or "") if key in before)


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

    def add_arm(self, arm: Arm, place: Place, fold: Fold, before: Mapping[str, str], labels: int | None = None) -> None:
        """Add the training and the test of an arm, perhaps on another number of labels than the verdict is about."""
        used = _starts(arm, before)
        title = arm.name.replace("_", "-") + ("" if labels is None else f"-{labels}")
        name = self._name(place, f"{title}-train")
        training = self.design.training(name, arm, place, before)
        scans = fold.training
        if labels is not None:
            scans, section = fold.further[labels], {"section": place.section(f"training_{labels}")}
            shown = training.title.replace(": training", f", {labels} labels: training")
            training = replace(training, title=shown, values={**training.values, **section})
        self._add("train", arm.name, place, training, used, len(scans), labels)
        if fold.test:
            test = self.design.test(self._name(place, f"{title}-test"), training, place)
            seconds = round(self.timings.testing(len(fold.test)), 1)
            own = (place.repeat, place.fold, name, (name,), seconds, labels)
            self.stages.append((PlannedStage(test.name, "test", arm.name, *own), test))

    def add_trials(self, arms: Sequence[Arm], place: Place, fold: Fold, before: Mapping[str, str]) -> None:
        """Add the trainings of each arm at several rates, and their scores on patients that are never tested."""
        for arm in arms:
            used = _starts(arm, before)
            for number, multiplier in enumerate(MULTIPLIERS, 1):
                name = self._name(place, f"{arm.name}-rate-{number}".replace("_", "-"))
                training = self.design.training(name, arm, place, before)
                own = {"section": "trial#training", "lr": training.values["lr"] * multiplier}
                training = replace(training, values={**training.values, **own})
                self._add("trial", arm.name, place, training, used, len(fold.training))
                test = self.design.test(f"{name}-score", training, place)
                test = replace(test, values={**test.values, "validation_section": "trial#test"})
                seconds = round(self.timings.testing(len(fold.test)), 1)
                row = PlannedStage(test.name, "trial_test", arm.name, place.repeat, place.fold, name, (name,), seconds)
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

    def _add(
        self,
        kind: str,
        arm: str | None,
        place: Place,
        stage: Stage,
        needs: tuple[str, ...],
        scans: int,
        labels: int | None = None,
    ) -> None:
        timed = "train" if kind == "trial" else kind
        drawn = training_steps(stage) * int(stage.values["batch_size"])
        if drawn < scans:  # a cache would load scans that no step sees
            stage = replace(stage, values={"cache_rate": 0.0, **stage.values})
        loaded = min(scans, drawn + scans // _HELD_OUT)
        seconds = round(self.timings.training(timed, arm, training_steps(stage), loaded), 1)
        listed = "ssa" if kind == "full_ssa" else kind
        row = PlannedStage(stage.name, listed, arm, place.repeat, place.fold, stage.name, needs, seconds, labels)
        self.stages.append((row, stage))
