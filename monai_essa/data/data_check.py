# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Reads every file of a datalist once and says what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from monai_essa.data.case_names import patient_of
from monai_essa.data.cohort_rules import CheckedItem, mixture_problems, overlap_problems
from monai_essa.data.data_problem import Problem
from monai_essa.data.datalist_file import read_datalist, section_items, section_names
from monai_essa.data.volume_facts import VolumeFacts, volume_facts
from monai_essa.data.volume_rules import image_problems, label_problems, pair_problems

__all__ = ["DataCheck", "check_datalist"]


@dataclass(frozen=True)
class DataCheck:
    """What the check of a datalist found.

    Attributes:
        problems: errors first, else in the order of the datalist.
        summary: lines that describe the data: counts, sizes, spacing, orientation, intensities, label ids.
    """

    problems: tuple[Problem, ...]
    summary: tuple[str, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that make training fail or its result wrong."""
        return tuple(problem for problem in self.problems if problem.severity == "error")


def check_datalist(
    path: str | Path, sections: Sequence[str] | None = None, base_dir: str | Path | None = None
) -> DataCheck:
    """Check the files of a datalist: readable, geometry, intensities, label ids, duplicates, leaks between sections.

    Each file is read once, by the reader that the bundles use; one volume is in memory at a time.

    Args:
        path: the JSON file.
        sections: the names to check, as :func:`monai_essa.data.section_names` gives them; default: all.
        base_dir: the folder that the paths are relative to; default: that of the JSON file.

    Returns:
        The problems and a summary. An item's patient is its ``patient`` entry, else
        :func:`monai_essa.data.patient_of` its image.

    Raises:
        FileNotFoundError: if the datalist does not exist.
        ValueError: if it is no datalist, or has no item in the sections.

    Example:
        >>> check = check_datalist("dataset.json")  # doctest: +SKIP
        >>> print(*check.problems, *check.summary, sep="\\n")  # doctest: +SKIP
    """
    datalist = read_datalist(path)
    listed = [
        (section, item)
        for section, items in section_items(datalist)
        if sections is None or section in sections
        for item in items
    ]
    if not listed:
        where = "its sections" if sections is None else list(sections)
        msg = f"{path}: expected items in {where}, found none; it has {', '.join(section_names(datalist)) or 'none'}"
        raise ValueError(msg)
    base = Path(base_dir) if base_dir is not None else Path(path).parent
    known = _known_ids(datalist.get("labels", {}))
    problems: list[Problem] = []
    items = tqdm(_well_formed(listed, problems), "data check", disable=None)
    checked = [_check_item(section, item, base, known, problems) for section, item in items]
    problems += [*mixture_problems(checked), *overlap_problems(checked)]
    summary = (*_summary(checked), *_class_lines(listed))
    return DataCheck(tuple(sorted(problems, key=lambda problem: problem.severity)), summary)


def _well_formed(listed: Sequence[tuple[str, Any]], problems: list[Problem]) -> list[tuple[str, dict[str, Any]]]:
    formed = []
    for section, entry in listed:
        item = {"image": entry} if isinstance(entry, str) else entry
        if isinstance(item, dict) and item.get("image"):
            formed.append((section, item))
        else:
            problem = f"expected a path or a dictionary with the key 'image', got {entry!r}"
            problems.append(Problem("error", "an item", section, problem, "add the key or remove the item"))
    return formed


def _check_item(
    section: str, item: Mapping[str, Any], base: Path, known: frozenset[int], problems: list[Problem]
) -> CheckedItem:
    image_file, label_file = _name(item["image"]), _name(item.get("label"))
    image = _facts(item["image"], "image", base, problems)
    label = _facts(item["label"], "label", base, problems) if label_file else None
    if image:
        problems += image_problems(image_file, image)
    if label:
        problems += label_problems(label_file, label, known)
    if image and label:
        problems += pair_problems(label_file, image, label)
    return CheckedItem(section, image_file, str(item.get("patient") or patient_of(image_file)), image, label)


def _facts(value: Any, key: str, base: Path, problems: list[Problem]) -> VolumeFacts | None:
    paths = [str(base / part) for part in ([value] if isinstance(value, str) else value)]
    try:
        return volume_facts(paths, count_values=key == "label")
    except (FileNotFoundError, ValueError) as error:
        problem, _, advice = str(error).partition("; ")
        problems.append(Problem("error", _name(value), key, problem.removeprefix(f"{paths[0]}: "), advice))
        return None


def _name(value: Any) -> str:
    first = value[0] if isinstance(value, list) and value else value
    return first if isinstance(first, str) else ""  # a number is a class, not a file


def _known_ids(labels: Mapping[str, Any]) -> frozenset[int]:
    pairs = labels.items() if isinstance(labels, dict) else ()
    ids = [key if str(key).isdigit() else value for key, value in pairs]  # MSD {"1": "spleen"}, nnU-Net {"spleen": 1}
    return frozenset(int(value) for value in ids if str(value).isdigit())


def _summary(items: Sequence[CheckedItem]) -> tuple[str, ...]:
    sections = Counter(item.section for item in items)
    images = [item.image for item in items if item.image]
    labels = [item.label for item in items if item.label]
    lines = [
        "images: " + ", ".join(f"{section} {count}" for section, count in sections.items()),
        f"labels: {len(labels)}; patients: {len({item.patient for item in items})}",
    ]
    if images:
        lines += _image_lines(images)
    if labels:
        files = Counter(int(value) for label in labels for value in label.values if value == int(value))
        lines.append("label ids (files): " + ", ".join(f"{value} ({files[value]})" for value in sorted(files)))
    return tuple(lines)


def _image_lines(images: Sequence[VolumeFacts]) -> list[str]:
    orientation = Counter(facts.orientation for facts in images).most_common()
    low, high = (np.median([getattr(facts, name) for facts in images]) for name in ("low", "high"))
    return [
        f"size in voxels: {_spread([facts.shape for facts in images])}",
        f"spacing in mm: {_spread([facts.spacing for facts in images])}",
        "orientation: " + ", ".join(f"{code} {count}" for code, count in orientation),
        f"intensity: median of the 0.5th percentile {low:g}, of the 99.5th {high:g}",
    ]


def _spread(rows: Sequence[tuple[float, ...]]) -> str:
    rank = max(len(row) for row in rows)
    table = np.array([row + (1,) * (rank - len(row)) for row in rows])
    median, low, high = (
        " x ".join(f"{value:g}" for value in row) for row in (np.median(table, 0), table.min(0), table.max(0))
    )
    return f"median {median}, {low} to {high}"


def _class_lines(listed: Sequence[tuple[str, Any]]) -> list[str]:
    """Count the items whose label is a class, or one number for each class, in place of a file."""
    labels = [item["label"] for _, item in listed if isinstance(item, dict) and "label" in item]
    classes = Counter(str(label) for label in labels if not _name(label))
    return (
        ["classes (images): " + ", ".join(f"{name} ({classes[name]})" for name in sorted(classes))] if classes else []
    )
