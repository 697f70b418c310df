# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The class labels of a classification: read from a datalist or an NPZ file, checked, counted."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_essa.data.lists.fields import check_item
from monai_essa.data.lists.read import listed_items, load_datalist, read_datalist
from monai_essa.data.lists.splits import stratified_draw
from monai_essa.data.readers.npz import npz_items
from monai_essa.outside import shown, switch

if TYPE_CHECKING:
    import torch

__all__ = ["check_every_class", "class_table", "class_weights", "classification_items", "label_type"]

Item = Mapping[str, Any]


def classification_items(
    datalist: str | Path,
    section: str = "training",
    num_classes: int = 2,
    label_type: type[int] | type[list] = int,
    limit: int | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Load images with their class labels.

    Args:
        datalist: a JSON datalist whose items have the class as ``label``, or an NPZ file as in MedMNIST.
        section: as in :func:`load_datalist`; ``training``, ``validation`` or ``testing`` of an NPZ file.
        num_classes: how many classes there are.
        label_type: ``int``: one class of 0 to ``num_classes - 1`` for each image; ``list``: 0 or 1 for each class.
        limit: keep this many, in the classes' proportion, drawn by the seed; a smaller limit keeps a subset
            of a larger one.
        seed: of that draw.

    Returns:
        One ``{"image": path, "label": 0}`` or ``{"image": path, "label": [0, 1]}`` for each.

    Raises:
        FileNotFoundError: if the datalist or an image is missing.
        ValueError: if a label is missing, of the wrong type or outside the classes, and as for :func:`load_datalist`
            and :func:`npz_items`. The message names the item.

    Example:
        >>> classification_items("dataset.json", limit=1)  # doctest: +SKIP
        [{'image': '/data/images/case_07.nii.gz', 'label': 1}]
    """
    if str(datalist).lower().endswith(".npz") and "[" not in section:
        items = npz_items(datalist, section)
        _check_labels(items, num_classes, label_type, f"{datalist}: {section}")
    else:  # the labels first: a text would be taken for a path
        _check_labels(
            listed_items(read_datalist(datalist), section, datalist), num_classes, label_type, f"{datalist}: {section}"
        )
        items = load_datalist(datalist, section)
    return items if limit is None else stratified_draw(items, limit, seed, f"{section!r} of {datalist}")


def label_type(multi_label: bool) -> type[int] | type[list]:
    """Return the type of an image's label, as :func:`classification_items` takes it.

    Args:
        multi_label: an image has several classes, or none: its label is a list with 0 or 1 for each class.

    Raises:
        TypeError: if ``multi_label`` is a text: a command line gives one for ``true`` and ``false``.

    Example:
        >>> label_type(False), label_type(True)
        (<class 'int'>, <class 'list'>)
    """
    return list if switch("multi_label", multi_label) else int


def check_every_class(items: Sequence[Item], labels: Mapping[str, int], section: str) -> None:
    """Refuse a section on which no AUC can be computed, because a class has no image or every image.

    Args:
        items: of :func:`classification_items`.
        labels: the number of each class by its name.
        section: for the error line.

    Raises:
        ValueError: if no image or every image is of a class.

    Example:
        >>> check_every_class([{"label": 0}, {"label": 0}], {"normal": 0, "mass": 1}, "validation")
        Traceback (most recent call last):
        ValueError: validation: 2 of 2 images are of class 'normal': an AUC needs some with and some without; add others
    """
    counts = _counts(items, len(labels))
    for name, number in labels.items():
        if counts[number] in (0, len(items)):
            msg = f"{section}: {counts[number]} of {len(items)} images are of class {name!r}"
            raise ValueError(f"{msg}: an AUC needs some with and some without; add others")


def class_weights(items: Sequence[Item], num_classes: int) -> torch.Tensor:
    r"""Weigh the classes against their frequency.

    With :math:`n_c` of the n images in class c of C: :math:`n / (C n_c)` for ``torch.nn.CrossEntropyLoss(weight=...)``
    (King and Zeng 2001, doi:10.1093/oxfordjournals.pan.a004868); where labels are lists, :math:`(n - n_c) / n_c` for
    ``torch.nn.BCEWithLogitsLoss(pos_weight=...)``.

    Args:
        items: of :func:`classification_items`.
        num_classes: C.

    Returns:
        The weights (C,).

    Raises:
        ValueError: if a class has no image.

    Example:
        >>> class_weights([{"label": 0}, {"label": 0}, {"label": 0}, {"label": 1}], 2)
        tensor([0.6667, 2.0000])
    """
    import torch  # not at the top: the commands for data lists do without torch

    counts = torch.tensor(_counts(items, num_classes), dtype=torch.float32)
    if not counts.all():
        raise ValueError(f"class {int(counts.argmin())} has none of {len(items)} images, so it has no weight; add some")
    if isinstance(items[0]["label"], list):
        return (len(items) - counts) / counts
    return len(items) / (num_classes * counts)


def class_table(path: Path, largest: int = 64 << 20) -> list[dict[str, str]]:
    """Read a table of classes or of their probabilities, a row for each image, as somebody else has written it.

    Args:
        path: a CSV file in UTF-8 with a header.
        largest: bytes that it may have.

    Returns:
        The rows by the names of the columns, as text; a value that a row lacks is empty.

    Raises:
        ValueError: if it is too large, or no table.
    """
    if path.stat().st_size > largest:
        raise ValueError(f"{path}: expected a table of at most {largest >> 20} MB")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file, restval=""))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: expected a table with commas in UTF-8, got {error}") from error


def _check_labels(items: Sequence[Any], num_classes: int, label_type: type, section: str) -> None:
    for index, item in enumerate(items):
        if not isinstance(item, dict) or "label" not in item:
            msg = f"{section} item {index}: expected an image and its label, got {shown(item)}"
            raise ValueError(f"{msg}; add the label")
        image, label = check_item(item, f"{section} item {index}", ("image",)).get("image"), item["label"]
        if not (_is_class(label, num_classes) if label_type is int else _is_list(label, num_classes)):
            raise ValueError(
                f"{section} item {index} ({image}): expected {_expected(num_classes, label_type)}, "
                f"got {shown(label)}; correct the label, the labels of the run, or multi_label"
            )


def _is_class(label: Any, num_classes: int) -> bool:
    return type(label) is int and 0 <= label < num_classes


def _is_list(label: Any, num_classes: int) -> bool:
    return isinstance(label, list) and len(label) == num_classes and all(_is_class(entry, 2) for entry in label)


def _expected(num_classes: int, label_type: type) -> str:
    return f"a class 0 to {num_classes - 1}" if label_type is int else f"a list of {num_classes} zeros and ones"


def _counts(items: Sequence[Item], num_classes: int) -> list[int]:
    """Count the images of each class."""
    labels = [item["label"] for item in items]
    return [
        sum(label[number] if isinstance(label, list) else label == number for label in labels)
        for number in range(num_classes)
    ]
