# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for DropSliceAxisd."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from monai_essa.data.transforms import DropSliceAxisd


@pytest.mark.parametrize(
    ("before", "after"),
    [((1, 8, 6, 1), (1, 8, 6)), ((3, 8, 6, 1), (3, 8, 6)), ((1, 8, 6), (1, 8, 6)), ((1, 8, 1), (1, 8, 1))],
)
def test_an_axis_of_one_voxel_goes_where_it_is_one_too_many(before: tuple[int, ...], after: tuple[int, ...]) -> None:
    image = torch.rand(before)
    dropped = DropSliceAxisd("image", spatial_dims=2)({"image": image})["image"]
    assert dropped.shape == after
    assert torch.equal(dropped.flatten(), image.flatten())


def test_several_slices_stay() -> None:
    assert DropSliceAxisd("image", spatial_dims=2)({"image": torch.rand(1, 8, 6, 3)})["image"].shape == (1, 8, 6, 3)


def test_the_file_stays_known_and_the_item_is_a_copy() -> None:
    item = {"image": MetaTensor(torch.rand(1, 8, 6, 1), affine=torch.eye(4) * 2, meta={"filename_or_obj": "a.dcm"})}
    image = DropSliceAxisd("image")(item)["image"]
    assert image.meta["filename_or_obj"] == "a.dcm"
    assert torch.equal(image.affine, item["image"].affine)
    assert item["image"].shape == (1, 8, 6, 1)


def test_a_missing_key_is_passed_over_on_request() -> None:
    assert DropSliceAxisd("image", allow_missing_keys=True)({"label": 1}) == {"label": 1}
    with pytest.raises(KeyError):
        DropSliceAxisd("image")({"label": 1})
