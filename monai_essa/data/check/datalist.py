# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Read every file of a datalist once and report what is wrong with each file and with all of them together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from monai_essa.data.check.volumes import (
    Problem,
    VolumeFacts,
    image_problems,
    joined,
    label_problems,
    pair_problems,
    volume_facts,
)
from monai_essa.data.lists.fields import check_item, check_label_map, label_ids, mapped_id, unread_fields
from monai_essa.data.lists.read import listed_path, read_datalist, section_items, section_names
from monai_essa.data.pairing.names import patient_of
from monai_essa.data.readers.folder import look_at
from monai_essa.data.readers.npz import is_npz_name
from monai_essa.outside import printable, shown

__all__ = ["CheckedItem", "DataCheck", "check_datalist", "mixture_problems", "overlap_problems"]

_Read = Sequence[tuple[str, VolumeFacts]]
_SPACING_FACTOR = 2.0
_INTENSITY_FACTOR = 20.0


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
    path: str | Path,
    sections: Sequence[str] | None = None,
    base_dir: str | Path | None = None,
    label_map: Mapping[float, int] | None = None,
) -> DataCheck:
    """Check the files of a datalist: readable, geometry, intensities, label ids, duplicates, leaks between sections.

    Each file is read once, by the reader that the bundles use; one volume is in memory at a time.

    Args:
        path: the JSON file.
        sections: the names to check, as :func:`monai_essa.data.section_names` returns them; default: all.
        base_dir: the folder that the paths are relative to; default: that of the JSON file.
        label_map: ids that voxel values of label maps stand for, as ``{255: 1}``; default: that of the datalist.

    Returns:
        The problems and a summary. An item's patient is its ``patient`` entry, else
        :func:`monai_essa.data.patient_of` its image.

    Raises:
        FileNotFoundError: if the datalist does not exist.
        ValueError: if it is not a datalist, or has no item in the sections.

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
    known = frozenset(number for ids in label_ids(datalist.get("labels"), "labels").values() for number in ids)
    table = check_label_map(datalist.get("label_map") if label_map is None else label_map, "label_map")
    check = _Check(Path(base_dir) if base_dir is not None else Path(path).parent, known, table, [])
    check.problems.extend(_doubtful_fields(path, datalist))
    items = tqdm(_well_formed(listed, check.problems), "data check", disable=None)
    checked = [_check_item(section, item, check) for section, item in items]
    problems = joined([*check.problems, *mixture_problems(checked), *overlap_problems(checked)])
    summary = tuple(map(printable, (*_summary(checked, table), *_class_lines(listed))))
    return DataCheck(tuple(sorted(problems, key=lambda problem: problem.severity)), summary)


@dataclass(frozen=True)
class CheckedItem:
    """One item of a datalist after its files were read.

    Attributes:
        section: where it is listed.
        file: the image, as the datalist names it.
        patient: its patient.
        image: facts of the image, ``None`` if it could not be read.
        label: facts of the label, ``None`` if there is none or it could not be read.
        image_is_label: whether the image's voxels look like those of a label map.
    """

    section: str
    file: str
    patient: str
    image: VolumeFacts | None
    label: VolumeFacts | None
    image_is_label: bool = False


def overlap_problems(items: Sequence[CheckedItem]) -> Iterator[Problem]:
    """Yield duplicates (equal voxels) and patients that are in more than one section.

    Args:
        items: of all sections.

    Yields:
        The problems; a duplicate within one section, or within an NPZ file, is a warning.
    """
    first: dict[str, CheckedItem] = {}
    for item in items:
        other = first.setdefault(item.image.digest, item) if item.image else item
        if other is item:
            continue
        problem = f"the voxels of {other.file} of {other.section!r}"
        # The split of an NPZ file is its publisher's: a site cannot mend it, but should know.
        mild = other.section == item.section or is_npz_name(item.file)
        severity: Literal["error", "warning"] = "warning" if mild else "error"
        yield Problem(severity, item.file, item.section, problem, "keep one of the two")

    sections: dict[str, dict[str, str]] = defaultdict(dict)
    for item in items:
        sections[item.patient].setdefault(item.section, item.file)
    for patient, files in sections.items():
        for section, file in list(files.items())[1:]:
            problem = f"patient {patient} is also in {next(iter(files))!r}"
            yield Problem("error", file, section, problem, "split by patient, or give each item its 'patient'")


def mixture_problems(items: Sequence[CheckedItem]) -> Iterator[Problem]:
    """Yield how images differ from most others: channels, orientation, spacing, intensity scale.

    Args:
        items: of all sections.

    Yields:
        An error for each label map among scans, and for each image with another number of channels; one warning if all
        images are label maps, or have several channels; and one warning each for orientation, spacing and intensity
        that names the first such image, since the preprocessing evens them out.
    """
    yield from _label_maps(items)
    read = [(item.file, item.image) for item in items if item.image]
    if not read:
        return
    channels = Counter(facts.channels for _, facts in read).most_common(1)[0][0]
    if channels > 1:
        problem = f"{channels} channels, as most images"
        yield Problem("warning", read[0][0], "image", problem, "set in_channels so, or split time points into files")
    for file, facts in read:
        if facts.channels != channels:
            problem = f"{facts.channels} channels, most images have {channels}"
            yield Problem("error", file, "image", problem, "leave out the file, or split it into 3-D images")
    yield from _orientation_mix(read)
    yield from _spacing_mix(read)
    yield from _intensity_mix(read)


@dataclass(frozen=True)
class _Check:
    """What each item is checked against, and the problems so far."""

    base: Path
    known: frozenset[int]
    label_map: Mapping[float, int]
    problems: list[Problem]


def _doubtful_fields(path: str | Path, datalist: Mapping[str, Any]) -> Iterator[Problem]:
    for name, near in unread_fields(datalist):
        problem = f"the field {shown(name)} is not read"
        yield Problem("warning", Path(path).name, "fields", problem, f"call it '{near}' if that is meant")


def _well_formed(listed: Sequence[tuple[str, Any]], problems: list[Problem]) -> list[tuple[str, dict[str, Any]]]:
    formed = []
    for number, (section, entry) in enumerate(listed):
        try:
            item = check_item(entry, f"item {number}")
        except ValueError as error:
            problems.append(Problem("error", "an item", section, *_said(error, "correct the item, or remove it")))
            continue
        if "image" in item:
            formed.append((section, item))
        else:
            problem = f"expected a path or a dictionary with the key 'image', got {shown(entry)}"
            problems.append(Problem("error", "an item", section, problem, "add the key or remove the item"))
    return formed


def _check_item(section: str, item: Mapping[str, Any], check: _Check) -> CheckedItem:
    image_file, label_file = _name(item["image"]), _name(item.get("label"))
    image = _facts(item["image"], "image", check)
    label = _facts(item["label"], "label", check) if label_file else None
    if image:
        check.problems.extend(image_problems(image_file, image))
    if label:
        check.problems.extend(label_problems(label_file, label, check.known, check.label_map))
    if image and label:
        check.problems.extend(pair_problems(label_file, image, label))
    like_label = None if image is None else look_at(listed_path(image_file, check.base)).is_label
    patient = str(item.get("patient") or patient_of(image_file))
    return CheckedItem(section, image_file, patient, image, label, bool(like_label))


def _facts(value: Any, key: str, check: _Check) -> VolumeFacts | None:
    paths = [listed_path(part, check.base) for part in ([value] if isinstance(value, str) else value)]
    try:
        for path in paths:
            if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):
                raise ValueError(f"{path}: expected a file or a folder of DICOM, got a pipe or device; leave it out")
        return volume_facts(paths, count_values=key == "label")
    except Exception as error:  # noqa: BLE001 - whatever a damaged file does to a reader, the next file is checked
        problem, advice = _said(error, "leave out the file, or copy it again")
        check.problems.append(Problem("error", _name(value), key, problem.removeprefix(f"{paths[0]}: "), advice))
        return None


def _said(error: Exception, advice: str) -> tuple[str, str]:
    """Split the line of an error into what is wrong and what to do."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    problem, _, told = lines[0].partition("; ")
    return problem, told or advice


def _name(value: Any) -> str:
    first = value[0] if isinstance(value, list) and value else value
    return first if isinstance(first, str) else ""  # a number is a class, not a file


def _summary(items: Sequence[CheckedItem], label_map: Mapping[float, int]) -> tuple[str, ...]:
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
        ids = [{mapped_id(value, label_map) for value in label.values} for label in labels]
        files = Counter(int(value) for held in ids for value in held if value == int(value))
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


def _label_maps(items: Sequence[CheckedItem]) -> Iterator[Problem]:
    maps = [item for item in items if item.image_is_label]
    if maps and len(maps) == len([item for item in items if item.image]):
        problem = f"all {len(maps)} images look like label maps"
        yield Problem("warning", maps[0].file, "image", problem, "list the scans, unless shapes are to be classified")
        return
    for item in maps:
        yield Problem("error", item.file, "image", "label map among the images", "list it as the label of its scan")


def _orientation_mix(read: _Read) -> Iterator[Problem]:
    usual = Counter(facts.orientation for _, facts in read).most_common(1)[0][0]
    odd = [(file, facts) for file, facts in read if facts.orientation != usual]
    if odd:
        file, facts = odd[0]
        problem = f"{len(odd)} of {len(read)} images are not {usual}, as this one ({facts.orientation})"
        yield Problem("warning", file, "image", problem, "keep Orientationd in the preprocessing")


def _spacing_mix(read: _Read) -> Iterator[Problem]:
    usual = np.median([_spacing(facts) for _, facts in read], axis=0)
    odd = [(file, facts) for file, facts in read if _factor(_spacing(facts), usual) > _SPACING_FACTOR]
    if odd:
        file, facts = odd[0]
        problem = (
            f"{len(odd)} of {len(read)} images differ from the median spacing {_mm(usual)} by a factor over "
            f"{_SPACING_FACTOR:g}, as this one ({_mm(_spacing(facts))})"
        )
        yield Problem("warning", file, "image", problem, "keep Spacingd in the preprocessing")


def _intensity_mix(read: _Read) -> Iterator[Problem]:
    read = [(file, facts) for file, facts in read if facts.high > facts.low]  # constant images have their own error
    usual = np.median([facts.high - facts.low for _, facts in read]) if read else 0.0
    odd = [(file, facts) for file, facts in read if _factor(facts.high - facts.low, usual) > _INTENSITY_FACTOR]
    if odd:
        file, facts = odd[0]
        problem = (
            f"{len(odd)} of {len(read)} images differ from the median intensity extent {usual:g} by a factor over "
            f"{_INTENSITY_FACTOR:g}, as this one ({facts.low:g} to {facts.high:g})"
        )
        yield Problem("warning", file, "image", problem, "normalise each volume by itself (intensity_mr)")


def _spacing(facts: VolumeFacts) -> np.ndarray:
    return np.sort(np.append(facts.spacing, [1.0] * (3 - len(facts.spacing))))  # sorted: axes may come in any order


def _factor(values: np.ndarray | float, reference: np.ndarray | float) -> float:
    tiny = np.finfo(float).tiny
    ratio = np.maximum(values, tiny) / np.maximum(reference, tiny)
    return float(np.maximum(ratio, 1.0 / ratio).max())


def _mm(spacing: np.ndarray) -> str:
    return " x ".join(f"{size:g}" for size in spacing) + " mm"
