# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Read the folder of a study: plan.yaml, verdict.json, the state of each stage. What is missing is None, never a crash.

The folder may have come from elsewhere, so every value that is shown has a declared type, and every run folder lies
below the study's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_essa.data.lists.fields import class_ids
from monai_essa.outside import NAME, Check, Choice, Flag, ListOf, MapOf, Nullable, Number, Text, inside, shown
from monai_essa.planning.study_plan import PLAN, PlannedStage, read_plan

__all__ = ["StudyFolder", "read_json", "read_study"]

_LINE = Text(longest=20_000)
_NAME = Text(NAME, 100)
_COUNT = Nullable(Number(0, 10**9, whole=True))
_NUMBER = Nullable(Number())
_LARGEST = 256 << 20  # bytes of a file that is read whole
_ARM: dict[str, Check] = {"name": _NAME, "title": _LINE, "kind": Choice(("trained", "floor"))}
_DROPPED: dict[str, Check] = {"name": _NAME, "reason": _LINE, "title": _LINE}
_SCORED: dict[str, Check] = {
    "name": _NAME,
    **dict.fromkeys(("mean", "low", "high"), _NUMBER),
    "n": _COUNT,
    "blinded": Nullable(Flag()),
    "rate": _NUMBER,
    "tried": Nullable(ListOf(_NUMBER, longest=100)),
}
_COMPARED: dict[str, Check] = {
    **dict.fromkeys(("a", "b"), _NAME),
    **dict.fromkeys(("estimate", "low", "high", "decidable", "margin", "level"), _NUMBER),
    **dict.fromkeys(("word", "reason", "question", "metric"), Nullable(_LINE)),
    **dict.fromkeys(("patients_needed", "repeats", "undefined"), _COUNT),
    "differences": ListOf(Number()),
}


@dataclass(frozen=True)
class StudyFolder:
    """The folder of a study, as far as it is there.

    Attributes:
        path: of the folder.
        protocol: what was fixed before the first run.
        titles: of the arms, by name.
        floors: names of the arms that train no network.
        dropped: name and reason of each arm that was left out for want of time.
        stages: in the order of the plan.
        images: spacing, size, labels and the rest of the preprocessing.
        request: what the user asked for.
        arms: mean, interval and number of patients of each arm, from verdict.json; empty without a verdict.
        comparisons: of the verdict.
        exported: what the verdict says about the exported arm; None if nothing is exported.
        sentence: the verdict in words; empty without one.
        efficiency: mean, interval and number of patients of each arm, by other numbers of labels.
    """

    path: Path
    protocol: Mapping[str, Any]
    titles: Mapping[str, str]
    floors: frozenset[str]
    dropped: tuple[Mapping[str, str], ...]
    stages: tuple[PlannedStage, ...]
    images: Mapping[str, Any]
    request: Mapping[str, Any]
    arms: tuple[Mapping[str, Any], ...] = ()
    comparisons: tuple[Mapping[str, Any], ...] = ()
    exported: Mapping[str, Any] | None = None
    sentence: str = ""
    efficiency: Mapping[int, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)

    @property
    def classification(self) -> bool:
        """Tell whether the task is classification."""
        return self.protocol.get("task") == "classification"

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the names of the classes in order, the background of a segmentation too."""
        found = self.images.get("labels")
        return tuple(sorted(found, key=found.__getitem__)) if isinstance(found, Mapping) else ()

    def run(self, stage: PlannedStage) -> Path:
        """Return the run folder of a stage."""
        return inside(self.path / "runs", stage.run, f"{self.path / 'plan.yaml'}, run of {stage.name}")

    def seconds(self, stage: PlannedStage) -> float | None:
        """Return how long a finished stage took; None if it did not end well."""
        done = self.path / "stages" / f"{stage.name}.done"
        found = read_json(done).get("seconds") if done.is_file() else None
        return None if found is None else float(Number(0, 1e9).check(found, f"{done}, field 'seconds'"))

    def failure(self, stage: PlannedStage) -> str:
        """Return the one line that says why a stage failed; empty if it did not fail."""
        file = self.path / "stages" / f"{stage.name}.failed"
        if not file.is_file():
            return ""
        return file.read_text(encoding="utf-8", errors="replace").strip().partition("\n")[0][:500] or "no reason given"

    def of(self, kind: str, arm: str | None = None) -> list[PlannedStage]:
        """Return the stages of a kind, of one arm or of all."""
        return [stage for stage in self.stages if stage.kind == kind and arm in (None, stage.arm)]

    def floor_ahead(self, higher_is_better: bool) -> tuple[str, float] | None:
        """Return the floor that has a better mean than the exported arm, with its mean; None if there is none.

        Args:
            higher_is_better: the direction of the metric.
        """
        means = {row["name"]: row["mean"] for row in self.arms if row["mean"] is not None}
        exported = (self.exported or {}).get("name")
        sign = 1 if higher_is_better else -1
        best = max((name for name in means if name in self.floors), key=lambda name: sign * means[name], default=None)
        if best is None or exported not in means or sign * means[best] <= sign * means[exported]:
            return None
        return self.title(best), means[best]

    def title(self, arm: str) -> str:
        """Return the title of an arm, or its name if the plan has none."""
        return self.titles.get(arm, arm)


def read_study(folder: Path) -> StudyFolder:
    """Read plan.yaml and, if it is there, verdict.json.

    Args:
        folder: of the study.

    Raises:
        FileNotFoundError: if the folder has no plan.yaml.
        ValueError: if a file is damaged, or a value in it has another type or range than declared.
    """
    path, plan = folder / PLAN, read_plan(folder)
    verdict_file = folder / "verdict.json"
    verdict = read_json(verdict_file) if verdict_file.is_file() else {}
    arms, where = _rows(plan.arms, _ARM, f"{path}, arms"), f"{verdict_file}, "
    return StudyFolder(
        path=folder,
        protocol=_plain_map(plan.protocol, f"{path}, protocol"),
        titles={each["name"]: each["title"] for each in arms},
        floors=frozenset(each["name"] for each in arms if each["kind"] == "floor"),
        dropped=tuple(_rows(plan.dropped, _DROPPED, f"{path}, dropped")),
        stages=tuple(stage for stage in plan.stages if stage.labels is None),
        images=_images(plan.images, f"{path}, images"),
        request=_plain_map(plan.request, f"{path}, request"),
        arms=tuple(_rows(verdict.get("arms") or [], _SCORED, f"{where}arms")),
        comparisons=tuple(_rows(verdict.get("comparisons") or [], _COMPARED, f"{where}comparisons")),
        exported=_plain_map(verdict["exported"], f"{where}exported") if verdict.get("exported") else None,
        sentence=_LINE.check(verdict.get("sentence", ""), f"{where}sentence"),
        efficiency=_efficiency(verdict.get("efficiency"), f"{where}efficiency"),
    )


def _efficiency(found: Any, where: str) -> dict[int, tuple[Mapping[str, Any], ...]]:
    if found is None:
        return {}
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ValueError(f"{where}: expected a list of mappings, got {shown(found)}")
    labels = [int(Number(1, 10**6, whole=True).check(each.get("labels"), f"{where}, labels")) for each in found]
    rows = [tuple(_rows(each.get("arms") or [], _SCORED, f"{where}, arms")) for each in found]
    return dict(zip(labels, rows, strict=True))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: if the file is too large, or holds something else.
    """
    _check_size(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected a JSON object, got {error}; start the study again to write it") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {shown(value)}; start the study again to write it")
    return value


def _check_size(path: Path) -> None:
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path}: expected at most {_LARGEST >> 20} MB, got {path.stat().st_size >> 20} MB")


def _rows(given: Any, fields: Mapping[str, Check], where: str) -> list[dict[str, Any]]:
    """Return the known fields of each row of a list; a later version may write more of them."""
    rows = ListOf(MapOf(_Anything()), longest=100_000).check(given, where)
    return [
        {
            name: check.check(row.get(name, _EMPTY.get(name)), f"{where}[{number}].{name}")
            for name, check in fields.items()
        }
        for number, row in enumerate(rows)
    ]


@dataclass(frozen=True)
class _Anything:
    """A value that nobody reads unless another check has accepted it."""

    def check(self, value: Any, where: str) -> Any:
        """Return the value."""
        return value


_EMPTY: dict[str, Any] = {"title": "", "kind": "trained", "differences": []}


def _images(value: Any, where: str) -> dict[str, Any]:
    images = _plain_map(value, where)
    if images.get("labels") is not None:
        images["labels"] = class_ids(images["labels"], f"{where}.labels")
    return images


def _plain_map(value: Any, where: str) -> dict[str, Any]:
    """Return a mapping of plain values: text on one line, finite numbers, and lists and mappings of them."""
    return {} if value is None else MapOf(_Plain(), _LINE, longest=1000).check(value, where)


@dataclass(frozen=True)
class _Plain:
    """A plain value of a plan or a verdict."""

    def check(self, value: Any, where: str, depth: int = 0) -> Any:
        """Return the value."""
        if depth > 8:
            raise ValueError(f"{where}: expected at most 8 levels of lists and mappings")
        if isinstance(value, Mapping):
            return {_LINE.check(str(name), where): self.check(item, where, depth + 1) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.check(item, where, depth + 1) for item in value]
        if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
            return value
        return _LINE.check(value, where)
