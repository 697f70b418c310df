# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Learning rates by trial: each arm trains at several, is scored on patients who are never tested, and keeps the best.

The trials are stages like the others. What they choose follows from their tables alone, and is written into the files
of the stages that train, which still run alone with the same bits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monai_essa.evaluation.run_scores import DICE, read_run
from monai_essa.files import write_text_whole
from monai_essa.outside import inside
from monai_essa.planning.study_plan import PlannedStage, read_plan
from monai_essa.study.terms.listing import MULTIPLIERS, TRIED_AS

__all__ = ["TriedRates", "set_rates", "tried_rates"]

_RATE = re.compile(r"^lr: .*$", re.MULTILINE)
_DEFAULT = MULTIPLIERS.index(1.0)


@dataclass(frozen=True)
class TriedRates:
    """The rates that an arm was tried at.

    Attributes:
        stages: the trials, one for each of :data:`~monai_essa.study.terms.listing.MULTIPLIERS`.
        scores: the mean of each on the patients that were set aside; None where a trial failed.
        best: place of the one that the arm takes; the default rate where scores are equal, or none is there.
    """

    stages: tuple[PlannedStage, ...]
    scores: tuple[float | None, ...]
    best: int

    @property
    def multiplier(self) -> float:
        """Return the chosen rate as a multiple of the default."""
        return MULTIPLIERS[self.best]


def tried_rates(folder: Path, stages: Sequence[PlannedStage]) -> dict[str, TriedRates]:
    """Choose the rate of each arm by the tables of its trials.

    Args:
        folder: of the study.
        stages: of its plan.

    Returns:
        The choice by the name of the arm, also for an arm that takes the rate of another; empty without trials.

    Raises:
        ValueError: if a table is damaged.
    """
    found = {}
    for arm in dict.fromkeys(stage.arm for stage in stages if stage.kind == "trial" and stage.arm is not None):
        trials = tuple(stage for stage in stages if stage.kind == "trial" and stage.arm == arm)
        scored = [_score(folder, stages, trial) for trial in trials]
        found[arm] = TriedRates(trials, tuple(None if each is None else abs(each) for each in scored), _best(scored))
    return found | {arm: found[other] for arm, other in TRIED_AS.items() if other in found}


def set_rates(folder: Path) -> None:
    """Write the chosen rate of each arm into the files of its stages; a second call changes nothing.

    Args:
        folder: of the study, whose trials have ended.

    Raises:
        FileNotFoundError: if a file of a stage is missing.
        ValueError: as :func:`tried_rates`.
    """
    plan = read_plan(folder)
    for arm, tried in tried_rates(folder, plan.stages).items():
        rate = _RATE.search(_file(folder, tried.stages[tried.best]).read_text(encoding="utf-8"))
        for stage in plan.stages:
            if stage.arm == arm and stage.name.endswith(("-train", "-test")) and rate is not None:
                path = _file(folder, stage)
                text = path.read_text(encoding="utf-8")
                changed = _RATE.sub(rate[0], text)
                if changed != text:
                    write_text_whole(path, changed)


def _score(folder: Path, stages: Sequence[PlannedStage], trial: PlannedStage) -> float | None:
    """Return the mean score of a trial, negative where a lower one is better; None if it has none."""
    test = next((stage for stage in stages if stage.kind == "trial_test" and stage.run == trial.run), None)
    if test is None or not (folder / "stages" / f"{test.name}.done").is_file():
        return None
    scores = read_run(inside(folder / "runs", trial.run, f"{folder / 'plan.yaml'}, stage {trial.name}"))
    values = np.array(list(scores.scores.values()), dtype=float)
    if not np.isfinite(values).any():
        return None
    mean = float(np.nanmean(values))
    return mean if scores.metric == DICE else -mean


def _best(scored: Sequence[float | None]) -> int:
    there = {number: score for number, score in enumerate(scored) if score is not None}
    return max(there, key=lambda number: (there[number], number == _DEFAULT), default=_DEFAULT)


def _file(folder: Path, stage: PlannedStage) -> Path:
    return folder / "stages" / f"{stage.name}.yaml"
