# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Two processes compute what one process computes on the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.parallel_runs import CASES, in_one_of_two, train
from tests.forked import run_ranks


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(in_one_of_two, str(folder))
    return folder


def read(folder: Path, name: str, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / f"{list(CASES).index(name)}-{rank}.pt", weights_only=True)
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_losses_and_the_result_are_those_of_one_process(name: str, two_processes: Path) -> None:
    one, two = train(CASES[name]), read(two_processes, name, 0)
    buffers = one.pop("buffers"), two.pop("buffers")
    assert len(one["losses"]) == CASES[name].steps and one["losses"].std() > 1e-4
    assert one.keys() == two.keys()
    for tensor in one:
        assert torch.allclose(one[tensor], two[tensor], rtol=1e-5, atol=1e-5), (tensor, one[tensor], two[tensor])
    for tensor in buffers[0]:
        assert torch.allclose(buffers[0][tensor], buffers[1][tensor], rtol=1e-5, atol=1e-5), tensor


@pytest.mark.parametrize("name", CASES)
def test_both_processes_have_the_same_bits(name: str, two_processes: Path) -> None:
    one, other = (read(two_processes, name, rank) for rank in (0, 1))
    assert all(torch.equal(one[tensor], other[tensor]) for tensor in one if tensor != "buffers")


def test_a_step_sends_the_gradients_of_what_learns_and_hardly_more(two_processes: Path) -> None:
    for sent, gradients in torch.load(two_processes / "facts-0.pt", weights_only=True)["wire"]:
        assert gradients < sent <= 1.05 * gradients


def test_processes_that_begin_differently_say_what_differs(two_processes: Path) -> None:
    expected = ("the same base in", "the same trainable tensors in", "the same configuration in")
    for rank in (0, 1):
        errors = torch.load(two_processes / f"facts-{rank}.pt", weights_only=True)["errors"]
        assert len(errors) == 3
        for error, words in zip(errors, expected, strict=True):
            assert words in error and "process 1 has another than process 0" in error
