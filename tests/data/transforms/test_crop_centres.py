# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the centres of labelled crops: the crops stay, the label is not scanned for each."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import RandCropByPosNegLabeld

from monai_essa.data.transforms import MarkCropCentresd

KEYS = ["image", "label"]


@pytest.fixture
def item() -> dict[str, torch.Tensor]:
    label = torch.zeros(1, 12, 12, 12)
    label[:, 4:7, 5:8, 2:9] = 1
    label[:, 4, 5, 2] = 2
    return {"image": MetaTensor(torch.arange(1728.0).reshape(1, 12, 12, 12)), "label": MetaTensor(label)}


def crop(**keys: str) -> RandCropByPosNegLabeld:
    return RandCropByPosNegLabeld(KEYS, "label", (4, 4, 4), pos=2, neg=1, **keys)


def test_crops_of_a_small_volume_are_monais_own(item: dict[str, torch.Tensor]) -> None:
    given = crop(fg_indices_key="fg_indices", bg_indices_key="bg_indices")
    for seed in range(20):
        plain = crop().set_random_state(seed)(item)[0]
        marked = given.set_random_state(seed)(MarkCropCentresd("label")(item))[0]
        assert torch.equal(plain["image"], marked["image"])
        assert list(marked) == KEYS


def test_a_large_volume_lists_some_of_each(item: dict[str, torch.Tensor]) -> None:
    marked = MarkCropCentresd("label", most=50)(item)
    flat = item["label"].flatten()
    for key, inside in (("fg_indices", True), ("bg_indices", False)):
        assert len(marked[key].unique()) == 50
        assert torch.equal(flat[marked[key]] > 0, torch.full((50,), inside))
        assert torch.equal(marked[key], marked[key].sort().values)
    assert torch.equal(marked["fg_indices"], MarkCropCentresd("label", most=50)(item)["fg_indices"])


def test_a_background_that_is_thinned_out_is_not_cut_into_columns() -> None:
    """Every n-th of the voxels would, where n divides the row length."""
    marked = MarkCropCentresd("label", most=108)({"label": torch.zeros(1, 12, 12, 12)})
    assert len((marked["bg_indices"] % 12).unique()) == 12


def test_a_label_without_foreground_has_none(item: dict[str, torch.Tensor]) -> None:
    marked = MarkCropCentresd("label")(item | {"label": torch.zeros(1, 12, 12, 12)})
    assert (len(marked["fg_indices"]), len(marked["bg_indices"])) == (0, 1728)


def test_balanced_centres_are_of_each_class_alike_and_never_of_an_absent_one() -> None:
    label = torch.zeros(1, 20, 20)
    label[0, :10, :10], label[0, 0, 19], label[0, 5:8, 15] = 1, 2, 5
    marked = MarkCropCentresd(keys="label", balanced=True, most=120)({"label": label})
    classes = Counter(label.flatten()[marked["fg_indices"]].tolist())
    assert classes == {1.0: 40, 2.0: 40, 5.0: 40}
    assert len(marked["fg_indices"].unique()) == 40 + 1 + 3
    assert label.flatten()[marked["bg_indices"]].sum() == 0
    again = MarkCropCentresd(keys="label", balanced=True, most=120)({"label": label})
    assert torch.equal(marked["fg_indices"], again["fg_indices"])


def test_a_volume_without_foreground_has_no_balanced_centre() -> None:
    marked = MarkCropCentresd(keys="label", balanced=True)({"label": torch.zeros(1, 4, 4)})
    assert len(marked["fg_indices"]) == 0 and len(marked["bg_indices"]) == 16
