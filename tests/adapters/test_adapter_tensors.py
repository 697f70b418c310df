# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Checksums see every bit, and values that no training leaves behind are named."""

from __future__ import annotations

import pytest
import torch

from monai_essa.adapters.identity import check_values, sha256_of, sha256_of_all


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(4),
        torch.tensor(2.5),
        torch.zeros(0, 3),
        torch.arange(3),
        torch.tensor([True, False]),
        torch.ones(2, 3).t(),
    ],
)
def test_a_digest_is_of_format_shape_and_bytes(tensor):
    assert sha256_of(tensor) == sha256_of(tensor.clone().contiguous())
    assert sha256_of(tensor) != sha256_of(tensor[None])
    assert sha256_of(tensor) != sha256_of(tensor.to(torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("place", [0, 15, 16, 500, 998, 999])
def test_a_digest_sees_every_place_of_a_long_tensor(place, dtype):
    tensor = torch.arange(1000).to(dtype).view(10, 100)
    other = tensor.clone()
    other.view(-1)[place] = 7000
    assert sha256_of(tensor) != sha256_of(other)
    assert sha256_of_all({"a": tensor}) != sha256_of_all({"a": other})


def test_the_digest_of_all_sees_names_and_not_their_order():
    a, b = torch.ones(2), torch.zeros(2)
    assert sha256_of_all({"a": a, "b": b}) == sha256_of_all({"b": b, "a": a})
    assert len({sha256_of_all(each) for each in ({"a": a, "b": b}, {"a": b, "b": a}, {"a": a}, {"a": a, "c": b})}) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_named(value, dtype):
    with pytest.raises(ValueError, match=r"^site: 'encoder:rows' holds NaN or infinity[^\n]*$"):
        check_values({"encoder:norm": torch.ones(2), "encoder:rows": torch.tensor([0, value], dtype=dtype)}, "site")


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        ("columns", torch.tensor([3, 1, 3]), "holds an index twice"),
        ("columns", torch.tensor([0, -1]), "holds -1, expected nothing below 0"),
        ("running_var", torch.tensor([1.0, -0.5]), "holds -0.5, expected nothing below 0"),
        ("num_batches_tracked", torch.tensor(-4), "holds -4"),
    ],
)
def test_values_out_of_range_are_named(name, tensor, reason):
    with pytest.raises(ValueError, match=f"^site: 'encoder:{name}' {reason}"):
        check_values({f"encoder:{name}": tensor}, "site")


def test_what_training_leaves_is_taken():
    good = {
        "columns": torch.tensor([5, 0]),
        "running_mean": torch.tensor([-1.0]),
        "n": torch.tensor(3),
        "e": torch.zeros(0),
    }
    check_values(good, "site")
