# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The ids of label maps: what a datalist calls them, and which voxel values stand for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from monai_essa.outside import ListOf, Number, Text, shown

__all__ = ["NEAR", "check_label_map", "label_ids", "mapped_id"]

NEAR = 1e-3
"""How far a voxel may be from the value that it stands for: arithmetic makes 0.99999994 of 1."""

_ID = Number(0, 65535, whole=True)
_NAME = Text()


def check_label_map(label_map: Any, where: str) -> dict[float, int]:
    """Return the table from voxel values to ids with numbers for its keys, which are text in JSON.

    Args:
        label_map: as ``{255: 1}`` or ``{"255": 1}``; ``None`` for an empty one.
        where: what the message names.

    Raises:
        ValueError: if it is no such table, or names a value twice.

    Example:
        >>> check_label_map({"255": 1, "4": 3}, "label_map")
        {255.0: 1, 4.0: 3}
    """
    if label_map is None:
        return {}
    if not isinstance(label_map, Mapping):
        raise ValueError(f"{where}: expected a table from values to ids such as {{255: 1}}, got {shown(label_map)}")
    table = {_number(value, where): int(_ID.check(number, where)) for value, number in label_map.items()}
    if len(table) < len(label_map):
        raise ValueError(f"{where}: names a value twice: {shown(label_map)}; keep one of the two")
    return table


def mapped_id(value: float, label_map: Mapping[float, int]) -> float:
    """Return the id that a voxel value stands for: that of the table, else the whole number next to it.

    Args:
        value: of a voxel.
        label_map: as :func:`check_label_map` returns it.

    Returns:
        The id; or the value as it is where neither is within 0.001 of it.

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


def _name_and_ids(key: Any, value: Any, where: str) -> tuple[str, tuple[int, ...]]:
    place = f"{where}, {shown(key)}"
    if isinstance(value, list | tuple):
        return _NAME.check(key, place), tuple(ListOf(_ID, longest=1000, shortest=1).check(_whole_items(value), place))
    if _is_whole(key) and not _is_whole(value):
        return _NAME.check(value, place), (int(_ID.check(int(key), place)),)
    number = int(value) if _is_whole(value) and isinstance(value, str) else value
    return _NAME.check(str(key), place), (int(_ID.check(number, place)),)


def _whole_items(values: Iterable[Any]) -> list[Any]:
    return [int(value) if isinstance(value, str) and _is_whole(value) else value for value in values]


def _is_whole(value: Any) -> bool:
    if isinstance(value, str):
        return value.isascii() and value.isdigit() and len(value) <= 9
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any, where: str) -> float:
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"{where}: expected the value of a voxel, got {shown(value)}") from error
    return float(Number(-1e9, 1e9).check(number, where))
