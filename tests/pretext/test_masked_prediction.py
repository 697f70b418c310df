# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
import torch
import torch.nn as nn
from monai.data import MetaTensor

from monai_essa.pretext import PatchReconstruction, gather_patches
from monai_essa.pretext.masked_prediction import (
    MaskedPrediction,
    MaskedReconstruction,
    plain_tensor,
    reconstruction_images,
    reconstruction_parts,
)

SIZE = (2, 2)
L1 = PatchReconstruction("l1")


@pytest.fixture
def images():
    return torch.randn(2, 1, 4, 4)


@pytest.fixture
def predicted():
    """Zeros for patches 0 and 3 of the first image, 1 and 2 of the second."""
    return MaskedPrediction(torch.zeros(2, 2, 4), torch.tensor([[0, 3], [1, 2]]), SIZE)


def test_loss_is_that_of_the_masked_voxels(images, predicted):
    masked = [images[0, 0, :2, :2], images[0, 0, 2:, 2:], images[1, 0, :2, 2:], images[1, 0, 2:, :2]]

    assert torch.allclose(reconstruction_parts(predicted, images, None, L1)["loss"], torch.stack(masked).abs().mean())


def test_loss_ignores_visible_voxels(images, predicted):
    other = images.clone()
    other[0, 0, :2, 2:] = 7

    assert torch.equal(*(reconstruction_parts(predicted, volume, None, L1)["loss"] for volume in (images, other)))


def test_foreground_weighs_patches_by_their_share(images, predicted):
    foreground = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    foreground[0, 0, 0, 0] = True  # a quarter of patch 0
    foreground[1, 0, 2:, :2] = True  # all of patch 2
    quarter, whole = images[0, 0, :2, :2].abs().mean(), images[1, 0, 2:, :2].abs().mean()

    loss = reconstruction_parts(predicted, images, foreground, L1)["loss"]

    assert torch.allclose(loss, (0.25 * quarter + whole) / 1.25)


@pytest.mark.parametrize("shape", [(2, 4, 4), (2, 1, 4, 2), (1, 1, 4, 4)])
def test_foreground_of_another_shape_is_refused(images, predicted, shape):
    with pytest.raises(ValueError, match=r"expected a foreground \(2, 1, 4, 4\) for images"):
        reconstruction_parts(predicted, images, torch.ones(shape), L1)


def test_figures_show_prediction_in_masked_places_only(images, predicted):
    shown = reconstruction_images(predicted, images, L1)

    mask = shown["mask"].bool()
    assert mask[0, 0, :2, :2].all() and mask.sum() == 16
    assert torch.equal(shown["original"], images)
    assert torch.equal(shown["masked"], images.masked_fill(mask, 0))
    assert torch.equal(shown["prediction"], images.masked_fill(mask, 0))


def test_figures_of_normalised_patches_have_the_intensities_of_the_image(images, predicted):
    shown = reconstruction_images(predicted, images, PatchReconstruction("l2", normalised=True))

    true = gather_patches(images, SIZE, predicted.indices)
    drawn = gather_patches(shown["prediction"], SIZE, predicted.indices)
    assert torch.allclose(drawn, true.mean(-1, keepdim=True).expand_as(true))


def test_head_is_everything_outside_the_encoder():
    objective = nn.Module()
    objective.encoder, objective.encoder_like = nn.Linear(2, 2), nn.Linear(2, 2)

    head = MaskedReconstruction.head_parameters(objective)
    assert {id(p) for p in head} == {id(p) for p in objective.encoder_like.parameters()}


def test_metadata_is_dropped():
    plain = plain_tensor(MetaTensor(torch.ones(1, 1, 2, 2)))

    assert type(plain) is torch.Tensor
    assert plain_tensor(plain) is plain
