# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The fields of a data list from outside: their types, channel names, class names and the table of label values."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from monai_essa.outside import ListOf, MapOf, Nullable, Number, Text, check_config_value, shown

__all__ = [
    "NEAR",
    "SECTIONS",
    "channel_names",
    "check_fields",
    "check_item",
    "check_label_map",
    "class_ids",
    "label_ids",
    "mapped_id",
    "unread_fields",
]

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
NEAR = 1e-3
"""How far a voxel may be from the value that it stands for: arithmetic makes 0.99999994 of 1."""
_ID = Number(0, 65535, whole=True)
_NAME = Text()
_HIGHEST = 32_767  # atlases number their labels up to some 14,000; each id up to the highest becomes an output channel
_CLASS = Text(longest=128)
_FORMS = 'such as {"0": "background", "1": "liver"} or {"background": 0, "liver": 1}'


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


def check_label_map(label_map: Any, where: str) -> dict[float, int]:
    """Return the table from voxel values to ids with numbers for its keys, which are text in JSON.

    Args:
        label_map: as ``{255: 1}`` or ``{"255": 1}``; ``None`` for an empty one.
        where: what the message names.

    Raises:
        ValueError: if it is not such a table, or names a value twice.

    Example:
        >>> check_label_map({"255": 1, "4": 3}, "label_map")
        {255.0: 1, 4.0: 3}
    """
    if label_map is None:
        return {}
    if not isinstance(label_map, Mapping):
        raise ValueError(f"{where}: expected a table from values to ids such as {{255: 1}}, got {shown(label_map)}")
    table = {_voxel_value(value, where): int(_ID.check(number, where)) for value, number in label_map.items()}
    if len(table) < len(label_map):
        raise ValueError(f"{where}: names a value twice: {shown(label_map)}; keep one of the two")
    return table


def mapped_id(value: float, label_map: Mapping[float, int]) -> float:
    """Return the id that a voxel value stands for: that of the table, otherwise the nearest whole number.

    Args:
        value: of a voxel.
        label_map: as :func:`check_label_map` returns it.

    Returns:
        The id; or the value as it is, if neither is within 0.001 of it.

    Example:
        >>> mapped_id(255.0, {255.0: 1}), mapped_id(0.99999994, {}), mapped_id(0.5, {})
        (1.0, 1.0, 0.5)
    """
    for known, number in label_map.items():
        if abs(value - known) <= NEAR:
            return float(number)
    near = float(round(value)) if abs(value) < 2**53 else value
    return near if abs(value - near) <= NEAR else value


def label_ids(labels: Any, where: str) -> dict[str, tuple[int, ...]]:
    """Return the ids of each name that a datalist's ``labels`` holds.

    Args:
        labels: ``{"0": "background"}`` as the Decathlon has it, ``{"background": 0}`` as nnU-Net has it, there with
            several ids for a region (``{"whole": [1, 2]}``); ids may be text; or a list of names, from id 0 on.
        where: what the message names.

    Returns:
        The ids by name; empty for ``None``.

    Raises:
        ValueError: if it is none of these.

    Example:
        >>> label_ids({"background": 0, "whole": [1, 2], "core": "2"}, "labels")
        {'background': (0,), 'whole': (1, 2), 'core': (2,)}
    """
    if isinstance(labels, list | tuple):
        return {_NAME.check(name, f"{where}[{number}]"): (number,) for number, name in enumerate(labels)}
    if not isinstance(labels, Mapping | None):
        raise ValueError(f"{where}: expected names and ids, got {shown(labels)}")
    return dict(_name_and_ids(key, value, where) for key, value in (labels or {}).items())


def class_ids(labels: Any, where: str) -> dict[str, int]:
    """Read a table of label names whichever way round it is written.

    Args:
        labels: ids to names as in the Decathlon, names to ids as in nnU-Net, a list of names from 0 on, or None.
            Regions, which nnU-Net writes as lists of ids, are not classes of a label map and are left out.
        where: what a message names, such as the file and the field.

    Returns:
        Ids by name, in the order of the ids; empty where there are none.

    Raises:
        ValueError: if the table has another form, a name is unfit, or a name or an id occurs twice.

    Example:
        >>> class_ids({"1": "spleen", "0": "background"}, "dataset.json")
        {'background': 0, 'spleen': 1}
    """
    ids: dict[str, int] = {}
    for name, number in _class_pairs(labels, where):
        if name in ids or number in ids.values():
            raise ValueError(f"{where}: expected each name and each id once, got {shown(name)} for {number} again")
        ids[name] = number
    check_config_value(ids, where)
    return dict(sorted(ids.items(), key=lambda pair: pair[1]))


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


def _class_pairs(labels: Any, where: str) -> Iterator[tuple[str, int]]:
    if isinstance(labels, (list, tuple)):
        labels = dict(enumerate(labels))
    if not isinstance(labels, Mapping) and labels is not None:
        raise ValueError(f"{where}: expected names and ids, {_FORMS}, got {shown(labels)}")
    for key, value in (labels or {}).items():
        by_id = _is_whole(key)
        if isinstance(value, list) and not by_id:
            continue
        name, number = (value, key) if by_id else (key, value)
        if not _is_whole(number) or not 0 <= int(number) <= _HIGHEST:
            raise ValueError(
                f"{where}: expected names and ids from 0 to {_HIGHEST}, {_FORMS}, got {shown(key)} with {shown(value)}"
            )
        yield _CLASS.check(name, f"{where}, a label name"), int(number)


def _name_and_ids(key: Any, value: Any, where: str) -> tuple[str, tuple[int, ...]]:
    place = f"{where}, {shown(key)}"
    if isinstance(value, list | tuple):
        return _NAME.check(key, place), tuple(
            ListOf(_ID, longest=1000, shortest=1).check([*map(_number_of, value)], place)
        )
    if _is_whole(key) and not _is_whole(value):
        return _NAME.check(value, place), (int(_ID.check(int(key), place)),)
    return _NAME.check(str(key), place), (int(_ID.check(_number_of(value), place)),)


def _number_of(value: Any) -> Any:
    """Return the number that a text holds; what holds none is left for the check of ids to refuse."""
    return int(value) if isinstance(value, str) and _is_whole(value) else value


def _is_whole(value: Any) -> bool:
    if isinstance(value, str):
        return value.isascii() and value.isdigit() and len(value) <= 9
    return isinstance(value, int) and not isinstance(value, bool)


def _voxel_value(value: Any, where: str) -> float:
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"{where}: expected the value of a voxel, got {shown(value)}") from error
    return float(Number(-1e9, 1e9).check(number, where))
