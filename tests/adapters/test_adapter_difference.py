# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The difference of two adapter files is that of their tensors, methods and bases."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from monai_essa.adapters.difference import compare_adapters
from monai_essa.adapters.file import AdapterFile, read_adapter
from monai_essa.adapters.record import methods_text


def file(tensors: dict[str, torch.Tensor], fingerprint: dict[str, str] | None = None, **values: object) -> AdapterFile:
    record = {"methods": [{"name": "LoRA", "values": {"rank": 4} | values}], "fingerprint": fingerprint or {}}
    return AdapterFile(Path("site.safetensors"), tensors, record)


def test_a_file_does_not_differ_from_itself(files) -> None:
    one = read_adapter(files.adapters[0])
    found = compare_adapters(one, one)
    assert found.total == 0
    assert {tensor.relative for tensor in found.tensors} == {0.0}
    assert found.methods == "the same: APLA(columns=None, seed=0)"
    assert found.base.startswith("the same in the ")
    assert (found.only_first, found.only_second) == ((), ())


def test_the_difference_is_relative_to_the_first_file() -> None:
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 5.0])
    assert compare_adapters(file({"x": a}), file({"x": b})).tensors[0].relative == pytest.approx(1 / 5)
    assert compare_adapters(file({"x": b}), file({"x": a})).tensors[0].relative == pytest.approx(1 / math.sqrt(34))


def test_the_total_is_over_all_values_together() -> None:
    first = file({"x": torch.tensor([3.0]), "y": torch.tensor([4.0])})
    second = file({"x": torch.tensor([3.0]), "y": torch.tensor([6.0])})
    assert compare_adapters(first, second).total == pytest.approx(2 / 5)


def test_of_indices_the_share_that_differs_is_given_and_the_total_leaves_them_out() -> None:
    first = file({"columns": torch.tensor([1, 2, 3, 4])})
    second = file({"columns": torch.tensor([1, 2, 3, 9])})
    found = compare_adapters(first, second)
    assert found.tensors[0].relative == 0.25
    assert found.total == 0


def test_a_difference_from_zeros_is_infinite() -> None:
    found = compare_adapters(file({"x": torch.zeros(2)}), file({"x": torch.ones(2)}))
    assert found.tensors[0].relative == math.inf


def test_tensors_of_other_shapes_or_on_one_side_are_named() -> None:
    first = file({"x": torch.zeros(2), "y": torch.zeros(1)})
    second = file({"x": torch.zeros(3), "z": torch.zeros(1)})
    found = compare_adapters(first, second)
    assert [(tensor.name, tensor.relative) for tensor in found.tensors] == [("x", None)]
    assert (found.only_first, found.only_second) == (("y",), ("z",))


def test_blocks_are_in_the_order_of_their_numbers() -> None:
    tensors = {f"encoder:blocks.{number}.weight": torch.ones(1) for number in (10, 9, 1)}
    found = compare_adapters(file(tensors), file(tensors))
    assert [tensor.name.split(".")[1] for tensor in found.tensors] == ["1", "9", "10"]


def test_other_methods_are_set_against_each_other() -> None:
    assert compare_adapters(file({}), file({}, alpha=1)).methods == "LoRA(rank=4) against LoRA(rank=4, alpha=1)"


@pytest.mark.parametrize(
    ("fingerprint", "text"),
    [
        ({"a": "1", "b": "2"}, "the same in the 2 tensors frozen in both"),
        ({"a": "1", "b": "3"}, "not the same: 1 of 2 tensors frozen in both differ, first 'b'"),
        ({"c": "1"}, "not comparable: no tensor is frozen in both"),
    ],
)
def test_the_bases_are_compared_by_the_tensors_that_both_froze(fingerprint: dict[str, str], text: str) -> None:
    assert compare_adapters(file({}, {"a": "1", "b": "2"}), file({}, fingerprint)).base == text


def test_a_method_is_written_as_in_python() -> None:
    assert methods_text(file({}, targets=["q", "v"]).record) == "LoRA(rank=4, targets=['q', 'v'])"
