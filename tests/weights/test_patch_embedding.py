# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Other input channels and a third dimension for the first convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from monai_essa.weights.fit import fit_first_convolution


def test_grey_copies_of_an_image_give_what_the_image_gave() -> None:
    weight, image = torch.randn(6, 1, 4, 4, 4), torch.randn(1, 1, 8, 8, 8)
    fitted, how = fit_first_convolution(weight, (6, 3, 4, 4, 4)) or (torch.empty(0), "")
    torch.testing.assert_close(F.conv3d(image.expand(1, 3, 8, 8, 8), fitted), F.conv3d(image, weight))
    assert how == "1 input channel -> 3, repeated and divided by 3"


def test_many_channels_become_their_mean() -> None:
    weight = torch.stack([torch.full((6, 4, 4), value) for value in (1.0, 2.0, 6.0)], dim=1)
    fitted, how = fit_first_convolution(weight, (6, 1, 4, 4)) or (torch.empty(0), "")
    assert torch.equal(fitted, torch.full((6, 1, 4, 4), 3.0))
    assert how == "3 input channels -> 1 by their mean"


def test_a_volume_that_is_constant_along_its_last_axis_gives_the_tokens_of_its_slice() -> None:
    weight, image = torch.randn(6, 2, 4, 4, dtype=torch.float32), torch.randn(1, 2, 8, 8)
    fitted, _ = fit_first_convolution(weight, (6, 2, 4, 4, 4)) or (torch.empty(0), "")
    volume = image.unsqueeze(-1).expand(1, 2, 8, 8, 4)
    torch.testing.assert_close(F.conv3d(volume, fitted, stride=4)[..., 0], F.conv2d(image, weight, stride=4))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((6, 2, 4, 4, 4), (6, 4, 4, 4, 4)),
        ((6, 1, 4, 4, 4), (8, 1, 4, 4, 4)),
        ((6, 1, 4, 4, 4), (6, 1, 8, 8, 8)),
        ((6, 3, 4, 4, 4), (8, 1, 4, 4, 4)),
        ((6, 1, 4, 4, 4), (6, 1, 4, 4)),
        ((6,), (6, 1, 4, 4)),
    ],
    ids=["2-to-4-channels", "width", "patch-size", "channels-and-width", "3d-to-2d", "no-convolution"],
)
def test_no_rule_means_no_weight(source: tuple[int, ...], target: tuple[int, ...]) -> None:
    assert fit_first_convolution(torch.ones(source), target) is None
