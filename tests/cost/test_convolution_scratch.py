# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a convolution takes while it runs agrees with what the CPU's allocator saw, or is more on a smaller CPU."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from monai_essa.cost.meter import convolution_scratch
from tests.cost.allocator import allocated_peak

ATEN = torch.ops.aten
# The model is of oneDNN's kernels for AVX-512. Those of smaller instruction sets need as much or less.
full = partial(pytest.param, marks=pytest.mark.full)  # more of the same kernels
EXACT = torch.backends.cpu.get_cpu_capability() == "AVX512"


@pytest.mark.parametrize("channels", [(16, 16), full((32, 16)), full((48, 48)), (48, 3), (24, 12)])
@pytest.mark.parametrize("mask", [(True, False, False), (True, True, False)])
def test_scratch_is_what_the_allocator_saw(channels, mask):
    x = torch.rand(1, channels[0], 48, 48, 48)  # torch gives smaller images to another kernel
    weight = torch.rand(channels[1], channels[0], 3, 3, 3)
    settings = ([1] * 3, [1] * 3, [1] * 3, False, [0] * 3, 1)
    y = torch.convolution(x, weight, None, *settings)

    seen = allocated_peak(lambda: torch.convolution(x, weight, None, *settings)) - y.nbytes
    said = convolution_scratch(ATEN.convolution.default, (x, weight, None, *settings), y)
    assert seen <= 1.1 * said and (not EXACT or said <= 1.1 * seen)

    args = (y, x, weight, None, *settings, list(mask))
    made = sum(t.nbytes for t in ATEN.convolution_backward(*args) if t is not None)
    seen = allocated_peak(lambda: ATEN.convolution_backward(*args)) - made
    said = convolution_scratch(ATEN.convolution_backward.default, args, None)
    assert seen <= 1.1 * said and (not EXACT or said <= 1.1 * seen)


def test_other_operations_need_nothing():
    assert convolution_scratch(ATEN.mm.default, (torch.ones(2, 2), torch.ones(2, 2)), torch.ones(2, 2)) == 0
