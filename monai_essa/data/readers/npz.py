# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Images that lie together in one NPZ file, in the style of MedMNIST."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from monai_essa.data.lists.splits import stratified_draw
from monai_essa.data.readers.volume import FileFault, Volume, check_regular_file, make_volume, named_faults

__all__ = ["is_npz_name", "npz_datalist", "npz_file", "npz_items", "read_npz_image"]

_NAME = re.compile(r"(?P<file>.+\.npz)#(?P<array>[^#]+)#(?P<index>\d+)", re.IGNORECASE)
_SPLITS = {"training": "train", "validation": "val", "testing": "test"}
_MOST_CHANNELS = 4  # a last axis that short is no third dimension of space
_KEPT_ARRAYS = 4  # images of two splits of two files


def npz_items(path: str | Path, split: str = "train", limit: int | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """List the images of a split of an NPZ file, with their class labels.

    Args:
        path: a file with the arrays ``{split}_images`` (N, H, W[, C]) or (N, D, H, W[, C]) and ``{split}_labels``
            (N,), (N, 1), or (N, classes) of 0 and 1 for several labels an image.
        split: ``train`` (or ``training``), ``val`` (``validation``) or ``test`` (``testing``).
        limit: keep this many, in the classes' proportion, drawn by the seed; a smaller limit keeps a subset
            of a larger one.
        seed: of that draw; without a limit the file's order stays.

    Returns:
        One ``{"image": "FILE#train_images#12", "label": 0}`` for each, or ``"label": [0, 1]``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, lacks the arrays, or holds fewer images than ``limit`` or none at all.

    Example:
        >>> npz_items("pneumonia.npz", "val", limit=1)  # doctest: +SKIP
        [{'image': 'pneumonia.npz#val_images#391', 'label': 1}]
    """
    split = _SPLITS.get(split, split)
    items = _split_items(path, split, str(Path(path)))
    return items if limit is None else stratified_draw(items, limit, seed, f"{path} {split}")


def npz_datalist(path: str | Path) -> dict[str, Any]:
    """List the images of an NPZ file as the content of a datalist.

    Args:
        path: as for :func:`npz_items`.

    Returns:
        Those of the sections ``training``, ``validation`` and ``testing`` that the file holds.

    Raises:
        FileNotFoundError: as :func:`npz_items`.
        ValueError: as :func:`npz_items`, or if the file has none of the three.

    Example:
        >>> npz_datalist("pneumonia.npz")["validation"][391]  # doctest: +SKIP
        {'image': 'pneumonia.npz#val_images#391', 'label': 1}
    """
    check_regular_file(path)
    with _opened(str(path)) as file:
        held = list(file.files)
    splits = {section: split for section, split in _SPLITS.items() if f"{split}_images" in held}
    if not splits:
        wanted = ", ".join(f"{split}_images" for split in _SPLITS.values())
        raise FileFault(f"{path}: expected {wanted}, the file holds {', '.join(held) or 'none'}; correct the file")
    return {section: _split_items(path, split, Path(path).name) for section, split in splits.items()}


def is_npz_name(name: str | Path) -> bool:
    """Say whether a name is that of an image in an NPZ file."""
    return ".npz#" in str(name).lower()


def npz_file(name: str | Path) -> str:
    """Return the file of an image's name: ``"a.npz"`` for ``"a.npz#train_images#12"``; other names stay."""
    parts = _NAME.fullmatch(str(name))
    return parts["file"] if parts else str(name)


def read_npz_image(name: str) -> Volume:
    """Read one image of an NPZ file.

    Args:
        name: ``FILE#ARRAY#INDEX``.

    Returns:
        The volume, (x, y) or (x, y, z), with a channel axis at its end for colours; the affine is the identity.

    Raises:
        FileNotFoundError: if there is no such file.
        FileFault: if the name is of another form, the file damaged, the array not in it, no stack of 2-D or 3-D
            images, or shorter than the index.
    """
    parts = _NAME.fullmatch(name)
    if parts is None:
        raise FileFault(f"{name}: expected FILE.npz#ARRAY#INDEX, such as scans.npz#train_images#0; correct the name")
    array, index = parts["array"], parts["index"]
    images = _array(parts["file"], array)
    if int(index) >= len(images):
        raise FileFault(f"{name}: index {index} is out of range, {array} holds {len(images)} images; correct the name")
    return _oriented(np.asarray(images[int(index)]), name)


def _split_items(path: str | Path, split: str, name: str) -> list[dict[str, Any]]:
    """List the images of a split; items refer to the file by ``name``."""
    images, labels = _array(str(path), f"{split}_images"), _array(str(path), f"{split}_labels")
    if len(images) != len(labels) or len(images) == 0 or labels.ndim > 2:
        msg = f"{path}: expected a label for each of 1 or more images, got {split}_images {images.shape}"
        raise FileFault(f"{msg} and {split}_labels {labels.shape}; repair the file")
    plain = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    return [{"image": f"{name}#{split}_images#{index}", "label": label} for index, label in enumerate(plain.tolist())]


def _oriented(image: np.ndarray, name: str) -> Volume:
    """Turn (y, x) and (z, y, x) into (x, y) and (x, y, z); channels stay last."""
    coloured = image.ndim > 2 and image.shape[-1] <= _MOST_CHANNELS
    space = image.ndim - coloured
    if space not in (2, 3):
        raise FileFault(f"{name}: expected an image of 2 or 3 dimensions, got {image.shape}; leave out the array")
    image = image.transpose(*range(space)[::-1], *range(space, image.ndim))
    return make_volume(name, image, np.eye(4), coloured)


def _array(path: str, name: str) -> np.ndarray:
    check_regular_file(path)
    return _loaded(path, name, Path(path).stat().st_mtime_ns)


@lru_cache(maxsize=_KEPT_ARRAYS)
def _loaded(path: str, name: str, changed: int) -> np.ndarray:
    """Load an array; ``changed``, the time of the file, makes the cache forget a file that was written anew."""
    with _opened(path) as file:
        held = list(file.files)
        array: np.ndarray | None = file[name] if name in held else None
    if array is None:
        found = ", ".join(held) or "none"
        raise FileFault(f"{path}: expected the array {name!r}, the file holds {found}; correct the section or the file")
    return array


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """Open a file; any fault of its content becomes one line."""
    with named_faults(path, "an NPZ file of plain arrays"), np.load(path, allow_pickle=False) as file:
        yield file
