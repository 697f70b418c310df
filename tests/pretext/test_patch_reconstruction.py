# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import copy

import pytest
import torch

from monai_essa.pretext import PatchReconstruction, gradient_difference, normalise_patches

SIZE = (2, 3, 2)
CHANNELS = 2
VALUES = 2 * 3 * 2 * CHANNELS


@pytest.fixture
def patches():
    """Prediction and target (2, 3, V) in float64."""
    return torch.randn(2, 3, VALUES, dtype=torch.float64), torch.randn(2, 3, VALUES, dtype=torch.float64) * 3 + 5


def test_l1_is_the_mean_absolute_error(patches):
    prediction, target = patches

    expected = sum(abs(float(p) - float(t)) for p, t in zip(prediction.flatten(), target.flatten(), strict=True))

    assert float(PatchReconstruction("l1")(*patches, SIZE)) == pytest.approx(expected / prediction.numel(), rel=1e-12)


def test_l2_is_the_mean_squared_error(patches):
    prediction, target = patches

    expected = sum((float(p) - float(t)) ** 2 for p, t in zip(prediction.flatten(), target.flatten(), strict=True))

    assert float(PatchReconstruction("l2")(*patches, SIZE)) == pytest.approx(expected / prediction.numel(), rel=1e-12)


def test_normalised_l2_is_that_of_the_mae_paper(patches):
    prediction, target = patches
    total = 0.0
    for predicted, true in zip(prediction.flatten(0, 1).tolist(), target.flatten(0, 1).tolist(), strict=True):
        mean = sum(true) / VALUES
        variance = sum((value - mean) ** 2 for value in true) / (VALUES - 1)
        normal = [(value - mean) / (variance + 1e-6) ** 0.5 for value in true]
        total += sum((p - t) ** 2 for p, t in zip(predicted, normal, strict=True)) / VALUES

    loss = PatchReconstruction("l2", normalised=True)(*patches, SIZE)

    assert float(loss) == pytest.approx(total / 6, rel=1e-12)


def test_gradient_difference_is_the_mean_over_axes_of_differences_of_neighbours(patches):
    residual = (patches[0] - patches[1])[1, 2].reshape(*SIZE, CHANNELS)
    axes = []
    for axis, size in enumerate(SIZE):
        differences = residual.narrow(axis, 1, size - 1) - residual.narrow(axis, 0, size - 1)
        axes.append(sum(abs(float(value)) for value in differences.flatten()) / differences.numel())

    assert float(gradient_difference(*patches, SIZE)[1, 2]) == pytest.approx(sum(axes) / 3, rel=1e-12)


def test_gradient_term_is_added_with_its_weight(patches):
    plain = PatchReconstruction("l1")(*patches, SIZE)

    loss = PatchReconstruction("l1", gradient_weight=0.5)(*patches, SIZE)

    assert torch.allclose(loss, plain + 0.5 * gradient_difference(*patches, SIZE).mean())


def test_gradient_difference_ignores_an_offset_and_axes_of_one_voxel(patches):
    prediction, _ = patches

    assert torch.allclose(gradient_difference(prediction, prediction + 3, SIZE), torch.zeros(2, 3, dtype=torch.float64))
    assert torch.isfinite(gradient_difference(*patches, (1, 12, 1))).all()
    with pytest.raises(ValueError, match="two voxels or more along some axis"):
        gradient_difference(*patches, (1, 1, 1))


def test_weights_weigh_patches(patches):
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    loss = PatchReconstruction("l2")

    expected = (
        loss(patches[0][:1, :1], patches[1][:1, :1], SIZE) + 3 * loss(patches[0][1:, 2:], patches[1][1:, 2:], SIZE)
    ) / 4

    assert torch.allclose(loss(*patches, SIZE, weights), expected)


def test_equal_weights_change_nothing(patches):
    loss = PatchReconstruction("l1", gradient_weight=1.0)

    assert torch.allclose(loss(*patches, SIZE, torch.full((2, 3), 0.1)), loss(*patches, SIZE))


def test_no_weight_at_all_gives_zero_and_zero_gradients(patches):
    prediction = patches[0].requires_grad_()

    loss = PatchReconstruction("l1")(prediction, patches[1], SIZE, torch.zeros(2, 3))
    loss.backward()

    assert float(loss.detach()) == 0
    assert torch.equal(prediction.grad, torch.zeros_like(prediction))


@pytest.mark.parametrize(
    "loss",
    [
        PatchReconstruction("l1"),
        PatchReconstruction("l2"),
        PatchReconstruction("l2", normalised=True),
        PatchReconstruction("l2", normalised=True, gradient_weight=0.3),
    ],
    ids=str,
)
def test_gradient_agrees_with_finite_differences(patches, loss):
    prediction, target = patches
    weights = torch.rand(2, 3)

    assert torch.autograd.gradcheck(lambda values: loss(values, target, SIZE, weights), prediction.requires_grad_())


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
    loss = PatchReconstruction("l2", normalised=True, gradient_weight=0.3)
    parts = [tuple(values[image : image + 1] for values in patches) for image in (0, 1)]
    chosen = [None if weights is None else weights[image : image + 1] for image in (0, 1)]

    totals = [loss.total_weight(target, chosen[image]) for image, (_, target) in enumerate(parts)]
    losses = [loss(*part, SIZE, chosen[image]) for image, part in enumerate(parts)]

    joined = sum(value * total for value, total in zip(losses, totals, strict=True)) / sum(totals)
    assert float(joined) == pytest.approx(float(loss(*patches, SIZE, weights)), rel=1e-13)
    assert float(sum(totals)) == (6 if weights is None else 4.5)


def test_total_weight_has_no_gradient_and_the_number_format_of_the_loss(patches):
    weights = torch.rand(2, 3, requires_grad=True)

    assert not PatchReconstruction().total_weight(patches[1], weights).requires_grad
    assert PatchReconstruction().total_weight(patches[1], weights).dtype == torch.float64
    assert PatchReconstruction().total_weight(patches[1].bfloat16()).dtype == torch.float32


def test_loss_of_half_precision_is_taken_in_fp32():
    prediction, target = torch.randn(2, 3, VALUES).bfloat16(), torch.randn(2, 3, VALUES)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = PatchReconstruction("l2", normalised=True, gradient_weight=1.0)(prediction, target, SIZE)

    assert loss.dtype == torch.float32
    assert torch.equal(loss, PatchReconstruction("l2", True, 1.0)(prediction.float(), target, SIZE))


def test_equal_settings_are_equal_and_copyable():
    loss = PatchReconstruction("l2", normalised=True)

    assert copy.deepcopy(loss) == loss != PatchReconstruction("l2")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"error": "mse"}, r"one of \['l1', 'l2'\], got 'mse'"),
        ({"gradient_weight": -1}, "0 or more, got -1"),
        ({"gradient_weight": float("nan")}, "0 or more, got nan"),
        ({"gradient_weight": float("inf")}, "0 or more, got inf"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PatchReconstruction(**settings)
