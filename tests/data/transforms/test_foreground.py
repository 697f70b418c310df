# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the foreground threshold, the clipping and the mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, Lambdad, LoadImaged, RandCropByPosNegLabeld, SpatialPadd

from monai_essa.data.transforms import ClipForegroundPercentilesd, MarkForegroundd, foreground_threshold

READER = "monai_essa.data.VolumeReader"


@pytest.fixture
def head() -> torch.Tensor:
    """A bright ball with dark spots in noisy air."""
    generator = torch.Generator().manual_seed(0)
    axis = torch.linspace(-1, 1, 24)
    ball = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None] ** 2) < 0.6
    noise = torch.rand(24, 24, 24, generator=generator)
    return torch.where(ball, 60 + 40 * noise, 5 * noise)[None]


def test_the_threshold_is_that_of_the_formula() -> None:
    assert foreground_threshold(torch.arange(101.0)) == pytest.approx(2 + 0.1 * (98 - 2))


@pytest.mark.parametrize(("scale", "shift"), [(3.0, 0.0), (0.01, -5.0), (1000.0, 1e4)])
def test_the_threshold_moves_with_the_intensities(head: torch.Tensor, scale: float, shift: float) -> None:
    moved = foreground_threshold(head.double() * scale + shift)
    assert moved == pytest.approx(foreground_threshold(head.double()) * scale + shift)


def test_limits_are_percentiles_of_the_foreground(head: torch.Tensor) -> None:
    clipped = ClipForegroundPercentilesd("image")({"image": head})["image"]
    expected = np.percentile(head[head > 30].numpy(), [0.5, 99.5])
    assert [clipped.min().item(), clipped.max().item()] == pytest.approx(expected.tolist())
    inside = (head > expected[0]) & (head < expected[1])
    assert torch.equal(clipped[inside], head[inside])


def test_more_air_does_not_change_the_limits(head: torch.Tensor) -> None:
    clip = ClipForegroundPercentilesd("image")
    padded = torch.nn.functional.pad(head, (10,) * 6)
    few, many = (clip({"image": image})["image"] for image in (head, padded))
    assert [many.min().item(), many.max().item()] == pytest.approx([few.min().item(), few.max().item()])


def test_each_channel_has_its_own_limits(head: torch.Tensor) -> None:
    clip = ClipForegroundPercentilesd("image")
    both = clip({"image": torch.cat([head, head * 100])})["image"]
    assert torch.allclose(both[1], both[0] * 100)


def test_metadata_and_input_stay(head: torch.Tensor) -> None:
    image = MetaTensor(head.clone(), affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
    clipped = ClipForegroundPercentilesd("image")({"image": image})["image"]
    assert torch.equal(clipped.affine, image.affine)
    assert torch.equal(image.as_subclass(torch.Tensor), head)


def test_a_constant_channel_is_refused() -> None:
    with pytest.raises(ValueError, match="image: a channel has no foreground; leave out the file"):
        ClipForegroundPercentilesd("image")({"image": torch.full((1, 4, 4, 4), 3.0)})


def test_a_channel_without_foreground_is_refused_by_its_file(head: torch.Tensor) -> None:
    image = MetaTensor(torch.cat([head, torch.zeros_like(head)]), meta={"filename_or_obj": "two.nii"})
    with pytest.raises(ValueError, match=r"two\.nii: a channel has no foreground; leave out the file"):
        ClipForegroundPercentilesd("image")({"image": image})


@pytest.mark.parametrize("limits", [(99.5, 0.5), (-1, 50), (50, 101), (50, 50)])
def test_impossible_percentiles_are_refused(limits: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="0 <= lower < upper <= 100"):
        ClipForegroundPercentilesd("image", *limits)


def test_the_mask_is_the_foreground(head: torch.Tensor) -> None:
    mask = MarkForegroundd("image")({"image": head})["foreground"]
    assert mask.dtype == torch.bool
    assert torch.equal(mask, head > 30)


def test_the_mask_joins_channels_and_images(head: torch.Tensor) -> None:
    item = {"a": torch.cat([head, head.flip(1) * 2]), "b": head.roll(4, 1)}
    mask = MarkForegroundd(["a", "b"], foreground_key="tissue")(item)["tissue"]
    assert torch.equal(mask, (head > 30) | (head.flip(1) > 30) | (head.roll(4, 1) > 30))


def test_the_mask_is_cut_with_the_image(head: torch.Tensor) -> None:
    keys = ["image", "foreground"]
    chain = Compose(
        [
            MarkForegroundd("image"),
            CropForegroundd(keys, source_key="foreground"),
            SpatialPadd(keys, 32),
            RandCropByPosNegLabeld(keys, "foreground", (8, 8, 8), pos=1, neg=0),
        ]
    ).set_random_state(0)
    (crop,) = chain({"image": MetaTensor(head)})
    assert crop["foreground"].dtype == torch.bool
    assert crop["foreground"].shape == (1, 8, 8, 8)
    assert torch.equal(crop["foreground"], crop["image"] > 30)


@pytest.mark.parametrize("name", ["hippocampus-tiny/imagesTr/hippocampus_001", "odd-files/nifti_psr_orientation/t2"])
def test_a_stock_expression_clips_real_images_alike(data_dir: Path, name: str) -> None:
    item = LoadImaged("image", READER, ensure_channel_first=True)({"image": str(data_dir / f"{name}.nii.gz")})
    stock = Lambdad(
        "image", lambda x: x.clamp(*np.percentile(x[x > np.percentile(x, [2, 98]).dot([0.9, 0.1])], [0.5, 99.5]))
    )
    assert torch.equal(stock(item)["image"], ClipForegroundPercentilesd("image")(item)["image"])


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("hippocampus/imagesTr/hippocampus_001", 0.85, 1.0),  # a crop without air
        ("ixi-hippocampus/brain2mm/images/IXI012-HH-1211", 0.3, 0.6),  # a head in air
    ],
)
def test_tissue_of_real_images_is_foreground(data_dir: Path, name: str, low: float, high: float) -> None:
    item = LoadImaged("image", READER, ensure_channel_first=True)({"image": str(data_dir / f"{name}.nii.gz")})
    assert low < MarkForegroundd("image")(item)["foreground"].float().mean() < high
