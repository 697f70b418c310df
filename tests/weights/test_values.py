# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Kinds of values."""

from __future__ import annotations

import pytest
import torch

from monai_essa.weights.file import unlike, unreadable


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float32])
def test_floating_point_numbers_are_of_one_kind(dtype: torch.dtype) -> None:
    assert unreadable(torch.ones(2, dtype=dtype)) is None
    assert unlike("norm.weight", torch.ones(2, dtype=dtype), torch.ones(2)) is None


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool])
def test_whole_numbers_are_no_weights(dtype: torch.dtype) -> None:
    assert "float32 in the network" in str(unlike("norm.weight", torch.ones(2, dtype=dtype), torch.ones(2)))


@pytest.mark.parametrize(("counted", "said"), [(torch.tensor(7.0), None), (torch.tensor(7.5), "float32 values")])
def test_a_count_may_be_a_whole_floating_point_number(counted: torch.Tensor, said: str | None) -> None:
    found = unlike("norm.num_batches_tracked", counted, torch.tensor(3))
    assert found is None if said is None else said in str(found)


def test_the_index_of_a_window_is_a_constant() -> None:
    own = torch.arange(9).reshape(3, 3)
    name = "layers1.0.blocks.0.attn.relative_position_index"
    assert unlike(name, own.float(), own) is None
    assert "windows are made otherwise" in str(unlike(name, own.T, own))


def test_a_part_of_a_larger_storage_is_readable() -> None:
    assert unreadable(torch.ones(10)[3:5]) is None
    assert "stores fewer" in str(unreadable(torch.ones(1).expand(3)))
