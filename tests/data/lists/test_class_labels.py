# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""Tests for class labels: what is read, what is refused, and weights by counting."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_essa.data.lists.class_labels import check_every_class, class_weights, classification_items

Datalist = Callable[[list[Any]], Path]


@pytest.fixture
def datalist(tmp_path: Path) -> Datalist:
    """Writes a datalist whose training section has these labels; the images are empty files."""

    def write(labels: list[Any]) -> Path:
        items = []
        for number, label in enumerate(labels):
            (tmp_path / f"{number}.nii.gz").touch()
            items.append({"image": f"{number}.nii.gz"} | ({} if label is None else {"label": label}))
        (tmp_path / "dataset.json").write_text(json.dumps({"training": items}), encoding="utf-8")
        return tmp_path / "dataset.json"

    return write


def test_labels_of_a_datalist_stay_with_their_images(datalist: Datalist) -> None:
    path = datalist([0, 2, 1])
    items = classification_items(path, num_classes=3)
    assert items == [{"image": str(path.parent / f"{n}.nii.gz"), "label": label} for n, label in enumerate([0, 2, 1])]
    lists = classification_items(datalist([[0, 0], [1, 1]]), label_type=list)
    assert [item["label"] for item in lists] == [[0, 0], [1, 1]]


def test_a_limit_keeps_the_proportion_of_the_classes(datalist: Datalist) -> None:
    path = datalist([0] * 12 + [1] * 4)
    drawn = classification_items(path, limit=8, seed=3)
    assert Counter(item["label"] for item in drawn) == {0: 6, 1: 2}
    assert classification_items(path, limit=4, seed=3) == drawn[:4]


def test_an_npz_file_is_read_by_the_names_of_both_kinds(tmp_path: Path) -> None:
    images, labels = np.zeros((4, 5, 5), np.uint8), np.array([[0], [1], [1], [0]])
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=labels, test_images=images, test_labels=1 - labels)
    items = classification_items(tmp_path / "a.npz", "training")
    assert [item["label"] for item in items] == [0, 1, 1, 0]
    assert [item["label"] for item in classification_items(tmp_path / "a.npz", "test")] == [1, 0, 0, 1]
    with pytest.raises(ValueError, match=r"training item 1 .*#train_images#1\): expected a class 0 to 0, got 1"):
        classification_items(tmp_path / "a.npz", "training", num_classes=1)


@pytest.mark.parametrize(
    ("label", "label_type", "expected"),
    [
        (2, int, "expected a class 0 to 1, got 2"),
        (-1, int, "expected a class 0 to 1, got -1"),
        (1.0, int, "expected a class 0 to 1, got 1.0"),
        (True, int, "expected a class 0 to 1, got True"),
        ("mass", int, "expected a class 0 to 1, got 'mass'"),
        ([0, 1], int, r"expected a class 0 to 1, got \[0, 1\]"),
        (1, list, "expected a list of 2 zeros and ones, got 1"),
        ([0, 1, 1], list, r"expected a list of 2 zeros and ones, got \[0, 1, 1\]"),
        ([0, 2], list, r"expected a list of 2 zeros and ones, got \[0, 2\]"),
    ],
)
def test_a_label_that_is_no_class_is_refused_with_its_item(
    label: Any, label_type: Any, expected: str, datalist: Datalist
) -> None:
    good = 0 if label_type is int else [0, 1]
    with pytest.raises(ValueError, match=rf"dataset.json: training item 1 \(1.nii.gz\): {expected}; ") as caught:
        classification_items(datalist([good, label]), label_type=label_type)
    assert "\n" not in str(caught.value)


def test_a_missing_label_is_refused_with_its_item(datalist: Datalist) -> None:
    with pytest.raises(ValueError, match=r"training item 1: expected an image and its label, got .*1.nii.gz"):
        classification_items(datalist([0, None]))


def test_a_section_without_a_class_has_no_auc() -> None:
    labels = {"normal": 0, "mass": 1}
    check_every_class([{"label": 0}, {"label": 1}], labels, "validation")
    with pytest.raises(ValueError, match="validation: 0 of 2 images are of class 'mass'"):
        check_every_class([{"label": [1, 0]}, {"label": [0, 0]}], labels, "validation")
    with pytest.raises(ValueError, match="validation: 2 of 2 images are of class 'mass'"):
        check_every_class([{"label": [1, 1]}, {"label": [0, 1]}], labels, "validation")


def test_weights_make_the_classes_count_alike() -> None:
    items = [{"label": 0}] * 6 + [{"label": 1}] * 3 + [{"label": 2}]
    weights = class_weights(items, 3)
    counts = torch.tensor([6.0, 3.0, 1.0])
    torch.testing.assert_close(weights * counts, torch.full((3,), 10 / 3))
    several = class_weights([{"label": [1, 0]}, {"label": [1, 1]}, {"label": [0, 0]}, {"label": [0, 0]}], 2)
    torch.testing.assert_close(several, torch.tensor([1.0, 3.0]))  # absent over present
    with pytest.raises(ValueError, match="class 3 has none of 10 images"):
        class_weights(items, 4)
