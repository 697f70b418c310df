# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Reads datalists: JSON files in the style of the Medical Segmentation Decathlon and of VISTA3D."""

from __future__ import annotations

import difflib
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_essa.data.case_names import VOLUME_SUFFIXES
from monai_essa.data.npz_images import npz_datalist, npz_file

__all__ = ["listed_items", "load_datalist", "read_datalist", "section_items", "section_names", "unlabelled_items"]

_FOLD = re.compile(r"^(?P<name>.+)\[fold(?P<sign>!?=)(?P<fold>\d+)\]$")
_USUAL = {"training", "validation", "test", "testing", "unlabeled", "unlabelled"}
_ALIASES = {
    "test": "testing",
    "testing": "test",
    "unlabeled": "unlabelled",
    "unlabelled": "unlabeled",
    "train": "training",  # train and val: as the arrays of an NPZ file are called
    "val": "validation",
}


def load_datalist(
    path: str | Path,
    section: str | Sequence[str] = "training",
    keys: Sequence[str] = ("image", "label"),
    base_dir: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Load the items of one or more sections, with paths made absolute and checked to exist.

    Args:
        path: the JSON file, or an NPZ file as of MedMNIST.
        section: ``training``, ``validation``, ``testing`` (or ``test``), ``unlabeled``, or any other key that holds a
            list; ``source#training`` (or ``source::training``) for a nested one; ``training[fold=0]`` or
            ``training[fold!=0]`` for items that carry a ``fold``; a list of names joins several in that order.
        keys: what each item must have and all it keeps; ``("image",)`` leaves the labels out.
        base_dir: the folder that the paths are relative to; default: that of the JSON file.
        limit: keep this many items, the first after a shuffle by ``seed``; a smaller limit gives a subset of a larger.
        seed: of that shuffle; without a limit the file's order stays.

    Returns:
        One dictionary per item. Text (or a list of it) is taken for a path; numbers, as class labels, stay.

    Raises:
        FileNotFoundError: if the JSON file or a file that it names does not exist.
        ValueError: if the file is not such a datalist, a section is not there or empty, or an item lacks a key.

    Example:
        >>> load_datalist("dataset.json", "source#training", limit=3)  # doctest: +SKIP
        [{'image': '/data/imagesTr/case_07.nii.gz', 'label': '/data/labelsTr/case_07.nii.gz'}, ...]
    """
    datalist = read_datalist(path)
    names = [section] if isinstance(section, str) else list(section)
    base = Path(base_dir) if base_dir is not None else Path(path).parent
    items = [
        _resolved(item, keys, base, f"{path}: {name} item {index}")
        for name in names
        for index, item in enumerate(listed_items(datalist, name, path))
    ]
    if limit is None:
        return items
    if not 0 < limit <= len(items):
        msg = f"limit={limit}: expected 1 to {len(items)}, the number of items in {section!r} of {path}"
        raise ValueError(msg)
    return random.Random(seed).sample(items, len(items))[:limit]


def unlabelled_items(
    path: str | Path,
    section: str | Sequence[str] | None = None,
    base_dir: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Load images without their labels, for self-supervised adaptation.

    Args:
        path: the JSON file, or an NPZ file as of MedMNIST.
        section: as in :func:`load_datalist`; default: ``unlabeled`` where the file has it, else ``training``.
        base_dir: as in :func:`load_datalist`.
        limit: as in :func:`load_datalist`.
        seed: as in :func:`load_datalist`.

    Returns:
        One ``{"image": path}`` per item.

    Raises:
        FileNotFoundError: as in :func:`load_datalist`.
        ValueError: as in :func:`load_datalist`.
    """
    if section is None:
        filled = [name for name, items in section_items(read_datalist(path)) if items]
        section = next((name for name in ("unlabeled", "unlabelled") if name in filled), "training")
    return load_datalist(path, section, ("image",), base_dir, limit, seed)


def read_datalist(path: str | Path) -> dict[str, Any]:
    """Read the JSON object of a datalist.

    Args:
        path: the JSON file; or an NPZ file as of MedMNIST, which is read by :func:`npz_datalist`.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: if there is no such file; the line names near matches.
        ValueError: if it does not hold a JSON object, or as :func:`npz_datalist` says.
    """
    path = Path(path)
    if path.suffix.lower() == ".npz":
        return npz_datalist(path)
    if not path.is_file():
        beside = [other.name for other in path.parent.glob("*.json")] if path.parent.is_dir() else []
        msg = f"{path}: no such datalist{_near(path.name, beside)}; `monai-essa data datalist DIR` makes one"
        raise FileNotFoundError(msg)
    try:
        datalist = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path}: expected a JSON datalist, got {error}; correct the file"
        raise ValueError(msg) from error
    if not isinstance(datalist, dict):
        msg = f"{path}: expected a JSON object with sections such as 'training', got a {type(datalist).__name__}"
        raise ValueError(msg)
    return datalist


def section_names(datalist: Mapping[str, Any]) -> list[str]:
    """Name the sections of a datalist; nested ones as ``source#training``."""
    return [name for name, _ in section_items(datalist)]


def section_items(datalist: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Yield each section's name and its items as the file holds them.

    Args:
        datalist: the JSON object.
        prefix: put before the names.

    Yields:
        The name and the list. A list counts as a section if its key is one of the usual, if an entry has an ``image``,
        or if the first is the path of a volume file.
    """
    for key, value in datalist.items():
        if isinstance(value, dict):
            yield from section_items(value, f"{prefix}{key}#")
        elif isinstance(value, list) and (key in _USUAL or _names_images(value)):
            yield f"{prefix}{key}", value


def listed_items(datalist: Mapping[str, Any], name: str, path: str | Path) -> list[Any]:
    """Give the items of one section as the file holds them.

    Args:
        datalist: the JSON object.
        name: as in :func:`load_datalist`.
        path: the file, for the error line.

    Returns:
        The list, of at least one item.

    Raises:
        ValueError: if the section is not there or empty.
    """
    fold = _FOLD.match(name)
    section = fold["name"] if fold else name
    value: Any = datalist
    for part in re.split("#|::", section):  # MONAI's bundle parser turns "#" into "::" within expressions
        inside = value if isinstance(value, dict) else {}
        value = inside.get(part, inside.get(_ALIASES.get(part, part)))
    if not isinstance(value, list):
        names = section_names(datalist)
        msg = f"{path}: no section {section!r}{_near(section, names)}; it has {', '.join(names) or 'none'}"
        raise ValueError(msg)
    if fold:
        wanted, kept = int(fold["fold"]), fold["sign"] == "="
        value = [item for item in value if isinstance(item, dict) and (item.get("fold") == wanted) is kept]
    if not value:
        msg = f"{path}: section {name!r} is empty; expected at least one item"
        raise ValueError(msg)
    return value


def _names_images(value: list[Any]) -> bool:
    if value and isinstance(value[0], str):
        return value[0].lower().endswith(VOLUME_SUFFIXES)
    return any(isinstance(entry, dict) and "image" in entry for entry in value)


def _resolved(item: Any, keys: Sequence[str], base: Path, where: str) -> dict[str, Any]:
    item = {"image": item} if isinstance(item, str) else item
    missing = [key for key in keys if not isinstance(item, dict) or key not in item]
    if missing:
        found = ", ".join(item) if isinstance(item, dict) else repr(item)
        msg = f"{where}: expected the key {missing[0]!r}, got {found}; add it, or ask for other keys than {list(keys)}"
        raise ValueError(msg)
    return {key: _path(item[key], base, f"{where}.{key}") for key in keys}


def _path(value: Any, base: Path, where: str) -> Any:
    if isinstance(value, list):
        return [_path(part, base, where) for part in value]
    if not isinstance(value, str):
        return value
    path = base / value
    if not Path(npz_file(path)).exists():
        siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        msg = f"{where}: {path} does not exist{_near(path.name, siblings)}; correct the path or give base_dir"
        raise FileNotFoundError(msg)
    return str(path)


def _near(name: str, candidates: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, candidates, n=3)
    return f" (near: {', '.join(near)})" if near else ""
