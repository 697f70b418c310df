# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Read data lists: MSD and nnU-Net dataset.json files and folders, their sections, items, names and paths."""

from __future__ import annotations

import difflib
import json
import os
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_essa.data.lists.fields import SECTIONS, check_fields, check_item, check_label_map
from monai_essa.data.lists.splits import fold_items
from monai_essa.data.pairing.names import VOLUME_SUFFIXES
from monai_essa.data.readers.npz import npz_datalist, npz_file
from monai_essa.outside import shown

__all__ = [
    "is_nnunet_datalist",
    "listed_items",
    "listed_label_map",
    "listed_path",
    "listed_patients",
    "load_datalist",
    "nnunet_sections",
    "read_datalist",
    "section_items",
    "section_names",
    "unlabelled_items",
]

_FOLD = re.compile(r"^(?P<name>.+)\[fold(?P<sign>!?=)(?P<fold>\d+)(/(?P<folds>\d+))?\]$")
_ALIASES = {
    "test": "testing",
    "testing": "test",
    "unlabeled": "unlabelled",
    "unlabelled": "unlabeled",
    "train": "training",  # train and val: as the arrays of an NPZ file are called
    "val": "validation",
}
_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


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
            ``training[fold!=0]`` for items that carry a ``fold``, ``training[fold=0/5]`` for the first of five parts
            of the patients (:func:`~monai_essa.data.fold_items`); a list of names joins several in that order.
        keys: what each item must have, and all that is kept of it; ``("image",)`` leaves the labels out.
        base_dir: the folder that the paths are relative to; default: that of the JSON file.
        limit: keep this many items, drawn by the seed; a smaller limit keeps a subset of a larger one.
        seed: of that draw; without a limit the order of the file stays.

    Returns:
        One dictionary per item. Text, or a list of text, is taken for a path; numbers, such as class labels, stay.

    Raises:
        FileNotFoundError: if the JSON file or a file that it names does not exist.
        ValueError: if the file is not such a datalist, a section is not there or empty, or an item lacks a key.

    Example:
        >>> load_datalist("dataset.json", "source#training", limit=3)  # doctest: +SKIP
        [{'image': '/data/imagesTr/case_07.nii.gz', 'label': '/data/labelsTr/case_07.nii.gz'}, ...]
    """
    base = Path(base_dir) if base_dir is not None else Path(path).parent
    items = [_resolved(item, keys, base, where) for where, item in _entries(path, section)]
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
    return load_datalist(path, section or _unlabelled_section(path), ("image",), base_dir, limit, seed)


def read_datalist(path: str | Path) -> dict[str, Any]:
    """Read the JSON object of a datalist.

    Args:
        path: the JSON file; or an NPZ file as of MedMNIST, which is read by :func:`npz_datalist`.

    Returns:
        Its content; with the cases of imagesTr and labelsTr as sections where it is nnU-Net's, which names no files.

    Raises:
        FileNotFoundError: if there is no such file; the line names near matches.
        ValueError: if it does not hold a JSON object, a field beside the items has a wrong value, or as
            :func:`npz_datalist` says.
    """
    path = Path(path)
    if path.suffix.lower() == ".npz":
        return npz_datalist(path)
    if not path.is_file():
        beside = [other.name for other in path.parent.glob("*.json")] if path.parent.is_dir() else []
        msg = f"{path}: no such datalist{_near(path.name, beside)}; `monai-essa data datalist DIR` makes one"
        raise FileNotFoundError(msg)
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows put a mark before the first brace
        datalist = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        msg = f"{path}: expected a JSON datalist, got {_reason(error)}; correct the file"
        raise ValueError(msg) from error
    if not isinstance(datalist, dict):
        msg = f"{path}: expected a JSON object with sections such as 'training', got a {type(datalist).__name__}"
        raise ValueError(msg)
    check_fields(datalist, str(path))
    return datalist | nnunet_sections(datalist, path.parent, str(path)) if is_nnunet_datalist(datalist) else datalist


def listed_label_map(path: str | Path, given: Mapping[float, int] | None = None) -> Mapping[float, int]:
    """Return the ``label_map`` of a datalist, from voxel values to ids; empty where it has none.

    Args:
        path: the JSON file. If it does not exist, the map is empty too: a server of MONAI Label passes its items
            without a list.
        given: the map that the run was given, which is returned instead; default: that of the datalist.

    Raises:
        ValueError: as :func:`read_datalist`.
    """
    if given is not None:
        return given
    if not Path(path).exists():
        return {}
    return check_label_map(read_datalist(path).get("label_map"), f"{path}, field 'label_map'")


def listed_patients(
    path: str | Path, section: str | Sequence[str] | None = None, base_dir: str | Path | None = None
) -> dict[str, str]:
    """Return the patient that a datalist names for each image, by the path of the image or of its first file.

    Args:
        path: the JSON file, or an NPZ file as of MedMNIST.
        section: as in :func:`unlabelled_items`.
        base_dir: as in :func:`load_datalist`.

    Returns:
        The patients, without the images whose item names none; empty without a list, as for
        :func:`listed_label_map`.

    Raises:
        ValueError: as :func:`load_datalist`.
    """
    if not Path(path).exists():
        return {}
    base = Path(base_dir) if base_dir is not None else Path(path).parent
    patients = {}
    for where, entry in _entries(path, _unlabelled_section(path) if section is None else section):
        item = check_item(entry, where, ("image", "patient"))
        if "patient" in item and "image" in item:
            first = item["image"][0] if isinstance(item["image"], list) else item["image"]
            patients[listed_path(first, base)] = str(item["patient"])
    return patients


def listed_path(value: str, base: Path) -> str:
    """Return the absolute path of a file that a datalist names, with separators of either kind.

    Args:
        value: as the list has it.
        base: the folder that it is relative to.

    Returns:
        The path; absolute, so that no text of a list begins with what is code in a configuration of MONAI.

    Example:
        >>> listed_path("images/p1.nii.gz", Path("/data"))
        '/data/images/p1.nii.gz'
    """
    path = (base / value).absolute()
    if "\\" in value and not os.path.exists(path):  # Path.exists raises at a name that is too long
        path = (base / value.replace("\\", "/")).absolute()
    return str(path)


def section_names(datalist: Mapping[str, Any]) -> list[str]:
    """Name the sections of a datalist; nested ones as ``source#training``."""
    return [name for name, _ in section_items(datalist)]


def section_items(datalist: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Yield each section's name and its items as the file holds them.

    Args:
        datalist: the JSON object.
        prefix: put before the names.

    Yields:
        The name and the list. A list counts as a section if it has a usual name, if an entry has an ``image``, or if
        the first entry is the path of a volume file.
    """
    for key, value in datalist.items():
        if isinstance(value, dict):
            yield from section_items(value, f"{prefix}{key}#")
        elif isinstance(value, list) and (key in SECTIONS or _names_images(value)):
            yield f"{prefix}{key}", value


def listed_items(datalist: Mapping[str, Any], name: str, path: str | Path) -> list[Any]:
    """Return the items of one section as the file holds them.

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
    if fold and fold["folds"]:
        held = [_with_image(item, f"{path}: {section}") for item in value]
        value = fold_items(held, int(fold["fold"]), int(fold["folds"]), fold["sign"] == "=")
    elif fold:
        wanted, kept = str(int(fold["fold"])), fold["sign"] == "="
        value = [item for item in value if isinstance(item, dict) and (str(item.get("fold")) == wanted) is kept]
    if not value:
        msg = f"{path}: section {name!r} is empty; expected at least one item"
        raise ValueError(msg)
    return value


def is_nnunet_datalist(datalist: Mapping[str, Any]) -> bool:
    """Say whether a dataset.json is nnU-Net's: it has the ending of the files and no list of them."""
    lists = [value for value in datalist.values() if isinstance(value, list)]
    return "file_ending" in datalist and "channel_names" in datalist and not any(_holds_items(value) for value in lists)


def nnunet_sections(datalist: Mapping[str, Any], folder: Path, path: str) -> dict[str, list[dict[str, Any]]]:
    """List the cases by section: ``training`` with labels, and ``testing`` where there is an imagesTs.

    Args:
        datalist: the content of dataset.json.
        folder: where imagesTr and labelsTr lie.
        path: of dataset.json, for the error line.

    Returns:
        Items with paths relative to the folder; an image of several channels is a list of files.

    Raises:
        ValueError: if imagesTr holds no case, or a case lacks a channel or its label.
    """
    channels = len(datalist["channel_names"])
    ending = datalist["file_ending"]
    training = _cases(folder / "imagesTr", ending, channels, path)
    if not training:
        raise ValueError(f"{path}: expected images such as imagesTr/CASE_0000{ending} beside it, found none")
    without = [case for case in training if not (folder / "labelsTr" / f"{case}{ending}").is_file()]
    if without:
        raise ValueError(f"{path}: labelsTr/{without[0]}{ending} is missing; add it, or remove its image")
    items = [{"image": files, "label": f"labelsTr/{case}{ending}"} for case, files in training.items()]
    testing = [{"image": files} for files in _cases(folder / "imagesTs", ending, channels, path).values()]
    return {"training": items} | ({"testing": testing} if testing else {})


def _names_images(value: list[Any]) -> bool:
    if value and isinstance(value[0], str):
        return value[0].lower().endswith(VOLUME_SUFFIXES)
    return _holds_items(value)


def _unlabelled_section(path: str | Path) -> str:
    filled = [name for name, items in section_items(read_datalist(path)) if items]
    return next((name for name in ("unlabeled", "unlabelled") if name in filled), "training")


def _entries(path: str | Path, section: str | Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield the items of sections as the file holds them, each with its place for an error line."""
    datalist = read_datalist(path)
    for name in [section] if isinstance(section, str) else section:
        for index, item in enumerate(listed_items(datalist, name, path)):
            yield f"{path}: {name} item {index}", item


def _resolved(item: Any, keys: Sequence[str], base: Path, where: str) -> dict[str, Any]:
    item = check_item(item, where, tuple(keys))
    missing = [key for key in keys if key not in item]
    if missing:
        found = shown(", ".join(map(str, item))).strip("'")
        msg = f"{where}: expected the key {missing[0]!r}, got {found}; add it, or ask for other keys than {list(keys)}"
        raise ValueError(msg)
    return {key: _path(item[key], base, f"{where}.{key}") for key in keys}


def _with_image(item: Any, where: str) -> dict[str, Any]:
    """Return an item whose patient can be told."""
    if "image" not in check_item(item, where, ("image", "patient")):
        raise ValueError(f"{where}: expected items with an 'image', got {shown(item)}; add it")
    return dict(item)


def _path(value: Any, base: Path, where: str) -> Any:
    if isinstance(value, list):
        return [_path(part, base, where) for part in value]
    if not isinstance(value, str):
        return value
    path = Path(listed_path(value, base))
    if not os.path.exists(npz_file(path)):
        siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        msg = f"{where}: {path} does not exist{_near(path.name, siblings)}; correct the path or give base_dir"
        raise FileNotFoundError(msg)
    return str(path)


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text}, which is not JSON")


def _without_repeats(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    held: dict[str, Any] = {}
    for name, value in pairs:
        if name in held:
            raise ValueError(f"the name {shown(name)} twice")
        held[name] = value
    return held


def _reason(error: Exception) -> str:
    return "lists within lists without end" if isinstance(error, RecursionError) else str(error)


def _near(name: str, candidates: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, candidates, n=3)
    return f" (near: {', '.join(near)})" if near else ""


def _cases(folder: Path, ending: str, channels: int, path: str) -> dict[str, str | list[str]]:
    found: dict[str, dict[int, str]] = defaultdict(dict)
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _CHANNEL.match(file.name.removesuffix(ending))
        if match and file.name.endswith(ending) and not file.name.startswith("."):
            found[match["case"]][int(match["channel"])] = f"{folder.name}/{file.name}"
    for case, files in found.items():
        if sorted(files) != list(range(channels)):
            raise ValueError(
                f"{path}: expected the {channels} channels of channel_names for {shown(case)} in {folder.name}, "
                f"got {sorted(files)}; add or remove files"
            )
    return {case: _image([files[number] for number in range(channels)]) for case, files in sorted(found.items())}


def _image(files: list[str]) -> str | list[str]:
    return files if len(files) > 1 else files[0]


def _holds_items(value: list[Any]) -> bool:
    return any(isinstance(entry, Mapping) and "image" in entry for entry in value)
