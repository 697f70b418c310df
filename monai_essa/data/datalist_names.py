# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The names in a datalist, of its labels and of its channels, in the style of the Decathlon or of nnU-Net.

They go into configs, figures and messages, so each is one short printable line that means nothing to a ConfigParser.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from monai_essa.outside import ListOf, MapOf, Text, check_config_value, shown

__all__ = ["channel_names", "class_ids"]

_HIGHEST = 32_767  # atlases number their labels up to some 14,000; each id up to the highest becomes an output channel
_LABEL = Text(longest=128)
_CHANNEL = Text(longest=64)
_FORMS = 'such as {"0": "background", "1": "liver"} or {"background": 0, "liver": 1}'


def channel_names(datalist: Mapping[str, Any], where: str) -> list[str]:
    """Read what a datalist calls its channels, which is the modality of each.

    Args:
        datalist: the JSON object, with ``modality`` as of the Decathlon or ``channel_names`` as of nnU-Net: names by
            number, a list of them, or one text.
        where: the file, for a message.

    Returns:
        The names in the file's order; empty where it says nothing.

    Raises:
        ValueError: if a name is no short printable text. The line names file and field.

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


def class_ids(labels: Any, where: str) -> dict[str, int]:
    """Read a table of label names whichever way round it is written.

    Args:
        labels: ids to names as of the Decathlon, names to ids as of nnU-Net, a list of names from 0 on, or None.
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
    for name, number in _pairs(labels, where):
        if name in ids or number in ids.values():
            raise ValueError(f"{where}: expected each name and each id once, got {shown(name)} for {number} again")
        ids[name] = number
    check_config_value(ids, where)
    return dict(sorted(ids.items(), key=lambda pair: pair[1]))


def _pairs(labels: Any, where: str) -> Iterator[tuple[str, int]]:
    if isinstance(labels, (list, tuple)):
        labels = dict(enumerate(labels))
    if not isinstance(labels, Mapping) and labels is not None:
        raise ValueError(f"{where}: expected names and ids, {_FORMS}, got {shown(labels)}")
    for key, value in (labels or {}).items():
        by_id = _number(key) is not None
        name, number = (value, _number(key)) if by_id else (key, _number(value))
        if isinstance(value, list) and not by_id:
            continue
        if number is None or number > _HIGHEST:
            raise ValueError(
                f"{where}: expected names and ids from 0 to {_HIGHEST}, {_FORMS}, got {shown(key)} with {shown(value)}"
            )
        yield _LABEL.check(name, f"{where}, a label name"), number


def _number(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 9 else None
