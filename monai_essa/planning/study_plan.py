# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The plan of a study, ``plan.yaml``: what was decided before its first stage, written once and read by all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from monai_essa.files import write_text_whole
from monai_essa.outside import Choice, ListOf, Nullable, Number, Record, Text, shown

__all__ = ["KINDS", "PLAN", "PlannedStage", "StudyPlan", "read_plan", "write_plan"]

PLAN = "plan.yaml"
"""The file of a plan, in the folder of a study."""
KINDS = ("base", "ssa", "tpp", "trial", "trial_test", "train", "test", "floor", "refit")
"""What a stage does."""
_LARGEST = 16 << 20  # bytes of a plan
_NAME = Text(r"[a-z0-9][a-z0-9_-]*", longest=100)
_COUNT = Number(0, 1000, whole=True)
_STAGE = Record(
    {
        "name": _NAME,
        "kind": Choice(KINDS),
        "arm": Nullable(_NAME),
        "repeat": _COUNT,
        "fold": _COUNT,
        "run": _NAME,
        "needs": ListOf(_NAME),
        "seconds": Number(0, 1e9),
    },
    {"labels": Nullable(Number(1, 10**6, whole=True))},
)


@dataclass(frozen=True)
class PlannedStage:
    """A stage as the plan lists it.

    Attributes:
        name: of its file, its log and, if it trains, its run folder.
        kind: one of :data:`KINDS`.
        arm: that it belongs to; None if several start from it.
        repeat: from 1 on; 0 for the refit.
        fold: likewise.
        run: name of the run folder that it fills or, as a test, scores.
        needs: names of the stages that must have ended well.
        seconds: that it was estimated to take.
        labels: how many labelled patients it trains on, where that is not the number that the verdict is about.
    """

    name: str
    kind: str
    arm: str | None
    repeat: int
    fold: int
    run: str
    needs: tuple[str, ...]
    seconds: float
    labels: int | None = None


@dataclass(frozen=True)
class StudyPlan:
    """What was decided before the first stage, as plain values.

    Attributes:
        request: of the user, canonical: another one has another folder.
        protocol: what the verdict is about; it is copied into verdict.json.
        arms: ``name``, ``title`` and ``kind`` (``trained`` or ``floor``) of each.
        dropped: ``name`` and ``reason`` of each arm that is left out.
        stages: in the order in which they run.
        images: spacing, size, intensities and labels.
    """

    request: Mapping[str, Any]
    protocol: Mapping[str, Any]
    arms: Sequence[Mapping[str, str]]
    dropped: Sequence[Mapping[str, str]]
    stages: Sequence[PlannedStage]
    images: Mapping[str, Any]
    version: int = field(default=1)


def write_plan(plan: StudyPlan, folder: Path) -> Path:
    """Write the plan of a study, whole or not at all.

    Args:
        plan: plain values.
        folder: of the study.

    Returns:
        The file.
    """
    content = asdict(plan)
    content["stages"] = [{**stage, "needs": list(stage["needs"])} for stage in content["stages"]]
    order = ["version", "request", "protocol", "arms", "dropped", "stages", "images"]
    path = folder / PLAN
    write_text_whole(path, yaml.safe_dump({key: content[key] for key in order}, sort_keys=False, allow_unicode=True))
    return path


def read_plan(folder: Path) -> StudyPlan:
    """Read the plan of a study.

    Args:
        folder: of the study.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the file is damaged or of another version; the message says what to do.
    """
    path = folder / PLAN
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {PLAN}; give the folder of a study")
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path}: expected at most {_LARGEST >> 20} MB; restore the file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = " ".join(str(error).split())
        raise ValueError(f"{path}: expected the plan of a study, got {shown(line)}; restore the file") from error
    if not isinstance(content, Mapping) or content.get("version") != 1:
        raise ValueError(f"{path}: expected the plan of a study, version 1; restore the file or give another folder")
    for key in ("request", "protocol", "images"):
        if not isinstance(content.get(key), Mapping):
            raise ValueError(f"{path}: expected a mapping under {key!r}, got {shown(content.get(key))}")
    rows = ListOf(_STAGE).check(content.get("stages"), f"{path}, stages")
    return StudyPlan(
        request=content["request"],
        protocol=content["protocol"],
        arms=content.get("arms") or [],
        dropped=content.get("dropped") or [],
        stages=[PlannedStage(**{**row, "needs": tuple(row["needs"])}) for row in rows],
        images=content["images"],
    )
