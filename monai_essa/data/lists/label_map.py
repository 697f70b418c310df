# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Names and ids of the classes of label maps, and the voxel values that stand for ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from monai_essa.outside import ListOf, Number, Text, check_config_value, shown

__all__ = ["NEAR", "check_label_map", "class_ids", "label_ids", "mapped_id"]

NEAR = 1e-3
"""How far a voxel may be from the value that it stands for: arithmetic makes 0.99999994 of 1."""

_ID = Number(0, 65535, whole=True)
_NAME = Text()
_HIGHEST = 32_767  # atlases number their labels up to some 14,000; each id up to the highest becomes an output channel
_CLASS = Text(longest=128)
_FORMS = 'such as {"0": "background", "1": "liver"} or {"background": 0, "liver": 1}'


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
            Regions, which nnU-Net writes as lists of ids, are no classes of a label map and are left out.
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
