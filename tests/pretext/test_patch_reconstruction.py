# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import copy

import pytest
import torch

from monai_essa.pretext import PatchReconstruction, normalise_patches

VALUES = 24


@pytest.fixture
def patches():
    """Prediction and target (2, 3, V) in float64."""
    return torch.randn(2, 3, VALUES, dtype=torch.float64), torch.randn(2, 3, VALUES, dtype=torch.float64) * 3 + 5


def test_l1_is_the_mean_absolute_error(patches):
    prediction, target = patches

    expected = sum(abs(float(p) - float(t)) for p, t in zip(prediction.flatten(), target.flatten(), strict=True))

    assert float(PatchReconstruction("l1")(*patches)) == pytest.approx(expected / prediction.numel(), rel=1e-12)


def test_l2_is_the_mean_squared_error(patches):
    prediction, target = patches

    expected = sum((float(p) - float(t)) ** 2 for p, t in zip(prediction.flatten(), target.flatten(), strict=True))

    assert float(PatchReconstruction("l2")(*patches)) == pytest.approx(expected / prediction.numel(), rel=1e-12)


def test_normalised_l2_is_that_of_the_mae_paper(patches):
    prediction, target = patches
    total = 0.0
    for predicted, true in zip(prediction.flatten(0, 1).tolist(), target.flatten(0, 1).tolist(), strict=True):
        mean = sum(true) / VALUES
        variance = sum((value - mean) ** 2 for value in true) / (VALUES - 1)
        normal = [(value - mean) / (variance + 1e-6) ** 0.5 for value in true]
        total += sum((p - t) ** 2 for p, t in zip(predicted, normal, strict=True)) / VALUES

    loss = PatchReconstruction("l2", normalised=True)(*patches)

    assert float(loss) == pytest.approx(total / 6, rel=1e-12)


def test_weights_weigh_patches(patches):
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    loss = PatchReconstruction("l2")

    expected = (loss(patches[0][:1, :1], patches[1][:1, :1]) + 3 * loss(patches[0][1:, 2:], patches[1][1:, 2:])) / 4

    assert torch.allclose(loss(*patches, weights), expected)


def test_equal_weights_change_nothing(patches):
    loss = PatchReconstruction("l1")

    assert torch.allclose(loss(*patches, torch.full((2, 3), 0.1)), loss(*patches))


def test_no_weight_at_all_gives_zero_and_zero_gradients(patches):
    prediction = patches[0].requires_grad_()

    loss = PatchReconstruction("l1")(prediction, patches[1], torch.zeros(2, 3))
    loss.backward()

    assert float(loss.detach()) == 0
    assert torch.equal(prediction.grad, torch.zeros_like(prediction))


@pytest.mark.parametrize(
    "loss", [PatchReconstruction("l1"), PatchReconstruction("l2"), PatchReconstruction("l2", normalised=True)], ids=str
)
def test_gradient_agrees_with_finite_differences(patches, loss):
    prediction, target = patches
    weights = torch.rand(2, 3)

    assert torch.autograd.gradcheck(lambda values: loss(values, target, weights), prediction.requires_grad_())


def test_normalised_patches_have_no_mean_and_unit_variance(patches):
    normal = normalise_patches(patches[1])

    assert torch.allclose(normal.mean(-1), torch.zeros(2, 3, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(normal.var(-1), torch.ones(2, 3, dtype=torch.float64), atol=1e-5)


def test_constant_patch_is_normalised_to_zero():
    assert torch.equal(normalise_patches(torch.full((1, 1, 8), 4.0)), torch.zeros(1, 1, 8))


def test_prediction_of_normalised_patches_comes_back_to_voxels(patches):
    loss = PatchReconstruction("l2", normalised=True)

    assert torch.allclose(loss.to_voxels(normalise_patches(patches[1]), patches[1]), patches[1])


def test_prediction_of_plain_patches_is_left_as_it_is(patches):
    assert torch.equal(PatchReconstruction("l2").to_voxels(*patches), patches[0])


@pytest.mark.parametrize("weights", [None, torch.tensor([[1.0, 0.0, 0.5], [0.0, 0.0, 3.0]], dtype=torch.float64)])
def test_batches_join_by_their_total_weights(patches, weights):
    loss = PatchReconstruction("l2", normalised=True)
    parts = [tuple(values[image : image + 1] for values in patches) for image in (0, 1)]
    chosen = [None if weights is None else weights[image : image + 1] for image in (0, 1)]

    totals = [loss.total_weight(target, chosen[image]) for image, (_, target) in enumerate(parts)]
    losses = [loss(*part, chosen[image]) for image, part in enumerate(parts)]

    joined = sum(value * total for value, total in zip(losses, totals, strict=True)) / sum(totals)
    assert float(joined) == pytest.approx(float(loss(*patches, weights)), rel=1e-13)
    assert float(sum(totals)) == (6 if weights is None else 4.5)


def test_total_weight_has_no_gradient_and_the_number_format_of_the_loss(patches):
    weights = torch.rand(2, 3, requires_grad=True)

    assert not PatchReconstruction().total_weight(patches[1], weights).requires_grad
    assert PatchReconstruction().total_weight(patches[1], weights).dtype == torch.float64
    assert PatchReconstruction().total_weight(patches[1].bfloat16()).dtype == torch.float32


def test_loss_of_half_precision_is_taken_in_fp32():
    prediction, target = torch.randn(2, 3, VALUES).bfloat16(), torch.randn(2, 3, VALUES)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = PatchReconstruction("l2", normalised=True)(prediction, target)

    assert loss.dtype == torch.float32
    assert torch.equal(loss, PatchReconstruction("l2", True)(prediction.float(), target))


def test_equal_settings_are_equal_and_copyable():
    loss = PatchReconstruction("l2", normalised=True)

    assert copy.deepcopy(loss) == loss != PatchReconstruction("l2")


def test_an_unknown_error_is_refused():
    with pytest.raises(ValueError, match=r"one of \['l1', 'l2'\], got 'mse'"):
        PatchReconstruction("mse")
