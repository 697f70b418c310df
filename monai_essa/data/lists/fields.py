# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The fields of a data list from outside: types, alphabets and channel names."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from monai_essa.data.lists.label_map import check_label_map, label_ids
from monai_essa.outside import ListOf, MapOf, Nullable, Number, Text, shown

__all__ = ["SECTIONS", "channel_names", "check_fields", "check_item", "unread_fields"]

SECTIONS = frozenset({"training", "train", "validation", "val", "test", "testing", "unlabeled", "unlabelled"})
"""Names under which a datalist has items by custom, whatever they look like."""
_LINE = Text(longest=1000)
_SECTION = Text(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]*", longest=1000)
_PROSE = Text(r"[^\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]*", longest=100_000)
_COUNT = Nullable(Number(0, 2**63 - 1, whole=True))
_PATH = Text(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+", longest=4096)
_PATHS = ListOf(_PATH, longest=1000, shortest=1)
_FOLD = Number(-1, 10_000, whole=True)
_PATIENT = Text(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+", longest=1024)
_DEEPEST = 20
_Field = Callable[[Any, str], Any]
_CHANNEL = Text(longest=64)


def check_fields(datalist: Mapping[str, Any], path: str) -> None:
    """Check what a datalist says beside its items.

    Args:
        datalist: the JSON object.
        path: the file, for the error line.

    Raises:
        ValueError: if a field has a value of the wrong type, NaN, or a name that is not one line of text; the message
            names file and field.
    """
    for name, value in datalist.items():
        _SECTION.check(name, f"{path}, the name of a field")
        where = f"{path}, field {shown(name)}"
        if name in SECTIONS and not isinstance(value, list | dict):
            raise ValueError(f"{where}: expected a list of items, got {shown(value)}; correct the section")
        if not isinstance(value, list | dict) or name in _FIELDS:
            _FIELDS.get(name, _check_plain)(value, where)
        elif isinstance(value, dict):
            check_fields(value, f"{path}, {shown(name)}")


def check_item(item: Any, where: str, keys: tuple[str, ...] = ("image", "label", "patient", "fold")) -> dict[str, Any]:
    """Check the fields of an item that something reads.

    Args:
        item: a path, which is that of the image, or a mapping.
        where: file, section and place, for the error line.
        keys: the fields to check; others may hold anything, and nothing reads them.

    Returns:
        The item as a mapping.

    Raises:
        ValueError: if it is neither, or a field has a wrong value.

    Example:
        >>> check_item({"image": "p1.nii.gz", "label": None}, "dataset.json: training item 0")
        Traceback (most recent call last):
        ValueError: dataset.json: training item 0.label: expected a path or a class, got None; remove the key
    """
    if isinstance(item, str):
        item = {"image": item}
    if not isinstance(item, Mapping):
        raise ValueError(f"{where}: expected a path or a mapping with the key 'image', got {shown(item)}")
    for key in keys:
        if key in item:
            _ITEM.get(key, _check_plain)(item[key], f"{where}.{key}")
    return dict(item)


def unread_fields(datalist: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the fields that look like misspelt ones of those that are read, each with what may be meant."""
    known = [*_FIELDS, *SECTIONS]
    wrong = [name for name, value in datalist.items() if name not in known and not _is_list_of_items(value)]
    near = ((name, difflib.get_close_matches(name, known, n=1, cutoff=0.8)) for name in wrong)
    return [(name, found[0]) for name, found in near if found]


def channel_names(datalist: Mapping[str, Any], where: str) -> list[str]:
    """Read what a datalist calls its channels, which is the modality of each.

    Args:
        datalist: the JSON object, with ``modality`` as of the Decathlon or ``channel_names`` as of nnU-Net: names by
            number, a list of them, or one text.
        where: the file, for a message.

    Returns:
        The names in the file's order; empty where it says nothing.

    Raises:
        ValueError: if a name is not short printable text. The message names file and field.

    Example:
        >>> channel_names({"modality": {"0": "CT"}}, "dataset.json")
        ['CT']
    """
    for field in ("modality", "channel_names"):
        named, place = datalist.get(field), f"{where}, field '{field}'"
        if not named:
            continue
        if isinstance(named, Mapping):
            return list(MapOf(_CHANNEL, _CHANNEL).check(named, place).values())
        return ListOf(_CHANNEL).check([named] if isinstance(named, str) else named, place)
    return []


def _is_list_of_items(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str | Mapping) for entry in value)


def _check_plain(value: Any, where: str, depth: int = 0) -> None:
    """Take numbers, text, and lists and mappings of them."""
    if depth > _DEEPEST:
        raise ValueError(f"{where}: expected plain values, got more than {_DEEPEST} levels of them")
    if isinstance(value, Mapping):
        for name, held in value.items():
            _PROSE.check(name, where)
            _check_plain(held, f"{where}.{shown(name)}", depth + 1)
    elif isinstance(value, list):
        for held in value:
            _check_plain(held, where, depth + 1)
    elif isinstance(value, str):
        _PROSE.check(value, where)
    elif value is not None and not isinstance(value, bool):
        Number().check(value, where)


def _check_names(value: Any, where: str) -> None:
    """Take a line, a list of lines, or lines by number, as ``modality`` and ``channel_names`` are written."""
    if isinstance(value, Mapping):
        MapOf(_LINE, names=_LINE, longest=1000).check(value, where)
    elif isinstance(value, list):
        ListOf(_LINE, longest=1000).check(value, where)
    else:
        Nullable(_LINE).check(value, where)


def _check_paths(value: Any, where: str) -> None:
    (_PATHS if isinstance(value, list) else _PATH).check(value, where)


def _check_label(value: Any, where: str) -> None:
    if isinstance(value, str):
        _PATH.check(value, where)
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            (_PATH if isinstance(entry, str) else Number()).check(entry, f"{where}[{number}]")
    elif value is None:
        raise ValueError(f"{where}: expected a path or a class, got None; remove the key")
    else:
        Number().check(value, where)


def _check_patient(value: Any, where: str) -> None:
    if isinstance(value, str):
        _PATIENT.check(value, where)
    else:
        Number(0, 2**63 - 1, whole=True).check(value, where)


def _check_fold(value: Any, where: str) -> None:
    _FOLD.check(int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value, where)


_ITEM: dict[str, _Field] = {
    "image": _check_paths,
    "label": _check_label,
    "patient": _check_patient,
    "fold": _check_fold,
}
_FIELDS: dict[str, _Field] = {
    "name": Nullable(_LINE).check,
    "seed": _COUNT.check,
    "labels": label_ids,
    "label_map": check_label_map,
    "modality": _check_names,
    "channel_names": _check_names,
    "file_ending": Text(r"\.[A-Za-z0-9.]+", longest=20).check,
    "numTraining": _COUNT.check,
    "numTest": _COUNT.check,
}
