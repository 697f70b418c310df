# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The scans of a site, as a user names them: a folder, a data list, or an NPZ file; with label maps or classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from monai_essa.data.lists.class_labels import class_table
from monai_essa.data.lists.fields import channel_names, check_item, class_ids
from monai_essa.data.lists.read import listed_label_map, listed_path, read_datalist, section_items
from monai_essa.data.pairing.names import patient_of, volume_stem
from monai_essa.data.pairing.search import CaseRules, find_cases
from monai_essa.data.pairing.studies import Case
from monai_essa.data.readers.npz import is_npz_name
from monai_essa.outside import Text, shown
from monai_essa.planning.site import filled_classes, map_ids, number_classes
from monai_essa.study.terms.partition import Scan

__all__ = ["TASKS", "SiteScans", "read_site"]

TASKS = ("segmentation", "classification")
_LISTS = ("dataset.json", "datalist.json")
_TEST = ("test", "testing")
_FILE_COLUMNS = ("image", "file", "filename", "name", "path")
_CLASS_COLUMNS = ("label", "class", "target")
_NAME = Text(longest=128)


@dataclass(frozen=True)
class SiteScans:
    """All scans of a site.

    Attributes:
        scans: with absolute paths.
        test_patients: those of a fixed test set; None if the data names none.
        classes: ids of the labels by name, from 0 on; empty without labels.
        task: ``segmentation`` or ``classification``; None without labels.
        label_map: ids that voxel values of label maps stand for.
        channels: names of the channels, as far as the data list has them.
        named: whether the data list, DICOM or a table named the patients of all scans.
        left_out: lines about files that were found but not used.
    """

    scans: Sequence[Scan]
    test_patients: Sequence[str] | None
    classes: Mapping[str, int]
    task: str | None
    label_map: Mapping[float, int]
    channels: Sequence[str]
    named: bool
    left_out: Sequence[str] = ()

    @property
    def several(self) -> bool:
        """Tell whether an image may have several classes: its label is a list then."""
        return any(isinstance(scan.label, list) for scan in self.scans)


def read_site(scans: Path, labels: Path | None = None, task: str | None = None) -> SiteScans:
    """Find the scans and labels that a user names.

    Args:
        scans: a folder; a JSON data list; or an NPZ file as of MedMNIST. A folder with a ``dataset.json`` or a
            ``datalist.json`` is read by it, unless ``labels`` is given.
        labels: a folder of label maps, or a CSV table with a class for each image; for a folder only. Default: label
            maps lie among the scans, or there are none.
        task: what the user expects: one of :data:`TASKS`, or None for what the labels are made for.

    Returns:
        The scans.

    Raises:
        FileNotFoundError: if a file or folder is missing.
        ValueError: if there is no scan, labels cannot be paired, mix label maps and classes, or are for another task.
    """
    if not scans.exists():
        raise FileNotFoundError(f"{scans}: no such file or folder; give the scans, a data list or an NPZ file")
    listed = next((scans / name for name in _LISTS if scans.is_dir() and (scans / name).is_file()), None)
    if scans.is_file() or (listed is not None and labels is None):
        if labels is not None:
            raise ValueError(f"--labels is for a folder of scans; {scans} has its labels in it")
        found = _from_list(listed or scans)
    else:
        found = _from_folder(scans, labels)
    if task is not None and found.task not in (task, None):
        raise ValueError(
            f"--task {task}: the labels of {scans} are for {found.task}; give other labels or leave it out"
        )
    return found


def _from_list(path: Path) -> SiteScans:
    listed = read_datalist(path)
    entries = [(section, *entry) for section, items in section_items(listed) for entry in _items(section, items, path)]
    if not entries:
        raise ValueError(f"{path}: expected sections with images, such as training; found none")
    tested = {scan.patient for section, scan, _ in entries if _last(section) in _TEST and scan.label is not None}
    others = {scan.patient for section, scan, _ in entries if _last(section) not in _TEST}
    if both := sorted(tested & others):
        raise ValueError(f"{path}: patient {shown(both[0])} is in a test section and in another; keep each in one")
    found = [scan for _, scan, _ in entries]
    named = class_ids(listed.get("labels"), f"{path}, field 'labels'")
    label_map = listed_label_map(path)
    site = SiteScans(
        scans=found,
        test_patients=sorted(tested) or None,
        classes={},
        task=_task(found, path),
        label_map=label_map,
        channels=channel_names(listed, str(path)),
        named=all(known for _, _, known in entries),
    )
    return _named(site, named, path)


def _items(section: str, items: Sequence[Any], path: Path) -> Iterator[tuple[Scan, bool]]:
    """Yield the scans of a section, and whether the list names their patient."""
    for number, entry in enumerate(items):
        where = f"{path}: {section} item {number}"
        item = check_item(entry, where)
        if "image" not in item:
            raise ValueError(f"{where}: expected the key 'image'; add it")
        parts = item["image"] if isinstance(item["image"], list) else [item["image"]]
        paths = [listed_path(part, path.parent) for part in parts]
        label = item.get("label")
        if isinstance(label, str):
            label = listed_path(label, path.parent)
        elif isinstance(label, float) and label == int(label):
            label = int(label)
        patient = item.get("patient")
        known = str(patient) if patient is not None else _guessed(str(parts[0]))
        yield Scan(paths if len(paths) > 1 else paths[0], label, known), patient is not None


def _guessed(name: str) -> str:
    """Guess the patient from the name of a file; each image of an NPZ file counts as one."""
    return name.partition("#")[2].replace("#", " ") if is_npz_name(name) else patient_of(name)


def _last(section: str) -> str:
    return section.rpartition("#")[2]


def _from_folder(folder: Path, labels: Path | None) -> SiteScans:
    if labels is not None and not labels.exists():
        raise FileNotFoundError(
            f"{labels}: no such file or folder; give --labels a folder of label maps or a CSV table"
        )
    table = labels if labels is not None and labels.is_file() else None
    # With a table of classes the folder holds images only, whatever their voxels look like.
    found = find_cases(folder, None if table else labels, CaseRules(images_are_masks=table is not None))
    scans = [Scan(_image(case), _map(case), case.patient) for case in found.cases]
    named: dict[str, int] = {}
    if table is not None:
        scans, named = _with_classes(scans, found.cases, table)
    site = SiteScans(
        scans=scans,
        test_patients=None,
        classes={},
        task=_task(scans, folder),
        label_map={},
        channels=found.channels or (),
        named=False,
        left_out=[str(line) for line in found.left_out],
    )
    return _named(site, named, folder)


def _image(case: Case) -> Any:
    paths = [str(image.path.absolute()) for image in case.images]
    return paths if len(paths) > 1 else paths[0]


def _map(case: Case) -> str | None:
    return None if case.label is None else str(case.label.path.absolute())


def _task(scans: Sequence[Scan], where: Path) -> str | None:
    kinds = {isinstance(scan.label, str) for scan in scans if scan.label is not None}
    if len(kinds) > 1:
        raise ValueError(f"{where}: expected label maps or classes, got both; keep one kind")
    return None if not kinds else TASKS[0] if kinds.pop() else TASKS[1]


def _named(site: SiteScans, named: Mapping[str, int], where: Path) -> SiteScans:
    """Give a site its classes: as they are named, else as they occur; ids far apart, as 0 and 255, are closed up."""
    labels = [scan.label for scan in site.scans if scan.label is not None]
    if not labels:
        return site
    if site.task == "classification":
        counted = number_classes(labels, str(where))
        return replace(site, classes=dict(named) if len(named) >= len(counted) else counted)
    if named:
        return replace(site, classes=filled_classes(named))
    ids = map_ids([str(label) for label in labels], site.label_map)
    if not any(ids):
        raise ValueError(f"{where}: every label map is empty; expected voxels of at least one structure, such as 1")
    kept = {number: place for place, number in enumerate([number for number in ids if number > 0], 1)}
    closed: dict[float, int] = {number: place for number, place in kept.items() if number != place}
    if site.label_map or max(ids) <= 2 * len(kept) or min(ids) < 0:
        kept, closed = {number: number for number in ids}, {}
    names = class_ids({f"class_{number}": place for number, place in kept.items()}, f"{where}, the label maps")
    return replace(site, classes=filled_classes(names), label_map=closed or site.label_map)


def _with_classes(scans: Sequence[Scan], cases: Sequence[Case], table: Path) -> tuple[list[Scan], dict[str, int]]:
    """Give scans the classes of a table: a row for each image, by its path in the folder, its name or its stem."""
    rows = _rows(table)
    places = {name: number for number, case in enumerate(cases) for name in _names(case)}
    rows = [row for row in rows if row["label"]]  # a scan without a class is used without one
    names = sorted({row["label"] for row in rows})
    whole = all(name.isascii() and name.isdigit() for name in names)
    ids = {name: int(name) if whole else number for number, name in enumerate(names)}
    given: dict[int, Scan] = {}
    for row in rows:
        place = next((places[key] for key in (row["image"], volume_stem(row["image"])) if key in places), None)
        if place is None or place in given:
            said = "no scan of that name in the folder" if place is None else "the same scan twice"
            raise ValueError(f"{table}: {shown(row['image'])}: {said}; correct the table")
        patient = row.get("patient") or scans[place].patient
        given[place] = Scan(scans[place].image, ids[row["label"]], patient)
    named = class_ids({} if whole else ids, f"{table}, the classes")
    return [given.get(number, scan) for number, scan in enumerate(scans)], named


def _names(case: Case) -> Iterator[str]:
    path = case.images[0].name
    yield from (path, PurePath(path).name, volume_stem(path))


def _rows(table: Path) -> list[dict[str, str]]:
    read = class_table(table)
    header = {str(name).strip().lower(): name for name in (read[0] if read else {})}
    image, label = (next((header[n] for n in names if n in header), None) for names in (_FILE_COLUMNS, _CLASS_COLUMNS))
    if image is None or label is None:
        raise ValueError(f"{table}: expected a header with 'image' and 'label', got {shown(', '.join(header))}")
    columns = {"image": image, "label": label} | ({"patient": header["patient"]} if "patient" in header else {})
    return [
        {key: _NAME.check(row[column].strip(), f"{table}, line {line}, {key}") for key, column in columns.items()}
        for line, row in enumerate(read, start=2)
    ]
