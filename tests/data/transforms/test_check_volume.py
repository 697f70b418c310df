# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for CheckVolumed."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged

from monai_essa.data.transforms import CheckVolumed


def _volume(array: torch.Tensor, name: str, affine: torch.Tensor | None = None) -> MetaTensor:
    return MetaTensor(array, affine=torch.eye(4) if affine is None else affine, meta={"filename_or_obj": name})


@pytest.fixture
def item() -> dict[str, MetaTensor]:
    image = torch.arange(60.0).reshape(1, 3, 4, 5)
    return {"image": _volume(image, "image.nii"), "label": _volume(image % 3, "label.nii")}


def test_a_good_item_passes_unchanged(item: dict[str, MetaTensor]) -> None:
    checked = CheckVolumed("image", label_key="label", num_classes=3)(item)
    assert all(checked[key] is item[key] for key in item)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_broken_voxel_is_refused(item: dict[str, MetaTensor], value: float) -> None:
    item["image"][0, 1, 2, 3] = value
    with pytest.raises(ValueError, match=r"image\.nii: some voxels are NaN or infinite"):
        CheckVolumed("image")(item)


def test_a_constant_volume_is_refused(item: dict[str, MetaTensor]) -> None:
    item["image"] = item["image"] * 0 + 7
    with pytest.raises(ValueError, match=r"image\.nii: every voxel is 7; leave out"):
        CheckVolumed("image")(item)


def test_other_channels_are_refused_unless_any_will_do(item: dict[str, MetaTensor]) -> None:
    item["image"] = _volume(torch.rand(30, 3, 4, 5), "fmri.nii")
    with pytest.raises(ValueError, match=r"fmri\.nii: expected in_channels=1, got 30 \(a 4-D file\?\)"):
        CheckVolumed("image")(item)
    CheckVolumed("image", in_channels=None)(item)


@pytest.mark.parametrize(("shape", "spatial_dims"), [((1, 3, 4), 3), ((1, 3, 4, 5), 2), ((1, 3, 4, 5, 2), 3)])
def test_other_spatial_dimensions_are_refused(shape: tuple[int, ...], spatial_dims: int) -> None:
    with pytest.raises(ValueError, match=f"expected {spatial_dims} spatial dimensions after the channels, got"):
        CheckVolumed("image", spatial_dims=spatial_dims)({"image": torch.rand(shape)})


@pytest.mark.parametrize("shape", [(1, 3, 4, 6), (2, 3, 4, 5)])
def test_a_label_of_another_shape_is_refused(item: dict[str, MetaTensor], shape: tuple[int, ...]) -> None:
    item["label"] = _volume(torch.ones(shape), "label.nii")
    with pytest.raises(ValueError, match=r"label\.nii: expected the image's shape \(1, 3, 4, 5\), got"):
        CheckVolumed("image", label_key="label")(item)


def test_a_label_of_another_affine_is_refused(item: dict[str, MetaTensor]) -> None:
    item["label"].affine = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match=r"label\.nii: .* moves a corner by 6\.0 voxels"):
        CheckVolumed("image", label_key="label")(item)


@pytest.mark.parametrize("value", [0.5, -1.0, float("nan")])
def test_values_that_are_no_ids_are_refused(item: dict[str, MetaTensor], value: float) -> None:
    item["label"][0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"label\.nii: expected ids 0, 1, 2"):
        CheckVolumed("image", label_key="label")(item)


def test_an_id_beyond_the_classes_is_refused(item: dict[str, MetaTensor]) -> None:
    with pytest.raises(ValueError, match=r"label\.nii: expected ids 0 to 1, got 2; correct the label or the number"):
        CheckVolumed("image", label_key="label", num_classes=2)(item)


def test_a_missing_label_is_passed_over_where_allowed(item: dict[str, MetaTensor]) -> None:
    del item["label"]
    CheckVolumed("image", label_key="label", allow_missing_keys=True)(item)
    with pytest.raises(KeyError):
        CheckVolumed("image", label_key="label")(item)


def test_the_file_is_named_after_loading(tmp_path: Path) -> None:
    path = tmp_path / "flat.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), np.eye(4)), path)
    load = LoadImaged("image", "monai_essa.data.VolumeReader", ensure_channel_first=True)
    with pytest.raises(RuntimeError) as error:
        Compose([load, CheckVolumed("image")])({"image": str(path)})
    assert str(error.value.__cause__) == f"{path}: every voxel is 0; leave out the file"


INFINITE = float("inf")


@pytest.mark.parametrize("key", ["image", "label"])
@pytest.mark.parametrize(
    ("row", "column", "value"),
    [(2, 2, 0.0), (2, 2, INFINITE), (0, 0, float("nan")), (0, 3, INFINITE)],
    ids=["flat", "infinite", "nan", "infinite place"],
)
def test_an_affine_that_places_no_volume_is_refused(
    item: dict[str, MetaTensor], key: str, row: int, column: int, value: float
) -> None:
    item[key].affine[row, column] = value
    with pytest.raises(ValueError, match=rf"{key}\.nii: the affine is not finite or cannot be inverted; repair"):
        CheckVolumed("image", label_key="label")(item)


@pytest.mark.parametrize(("spacing", "side"), [(0.001, "0.005"), (1e4, "50000")])
def test_a_spacing_in_another_unit_is_refused(item: dict[str, MetaTensor], spacing: float, side: str) -> None:
    item["image"].affine = torch.diag(torch.tensor([spacing, spacing, spacing, 1.0], dtype=torch.float64))
    with pytest.raises(ValueError, match=rf"image\.nii: the longest side is {side} mm, expected 1 to 10000; correct"):
        CheckVolumed("image")(item)


def test_the_size_of_a_2d_image_is_not_known() -> None:
    CheckVolumed("image", spatial_dims=2)({"image": MetaTensor(torch.rand(1, 8, 8), affine=torch.eye(4) * 1e-4)})
