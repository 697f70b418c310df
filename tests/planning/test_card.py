# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for what a plan knows of the computer."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_essa.planning.choices import Computer, bytes_of, this_computer


@pytest.mark.parametrize(
    ("text", "size"),
    [("12GB", 12_000_000_000), ("12 gb", 12_000_000_000), ("1.5GiB", 1_610_612_736), ("800MB", 800_000_000)],
)
def test_amounts_are_read(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["12", "12TBs", "GB", "-3GB", "0GB", "1,5GB", ""])
def test_nonsense_is_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=f"--memory {text}: expected an amount such as 12GB"):
        bytes_of(text)


def test_a_step_gets_less_than_the_card_has() -> None:
    assert Computer(12_000_000_000, "", "cuda", 1, 1).budget == 10_200_000_000
    assert Computer(500_000_000, "", "cuda", 1, 1).budget == 0


def test_this_computer_has_memory_and_disk(tmp_path: Path) -> None:
    card = this_computer(tmp_path / "not" / "there")
    assert min(card.memory, card.ram, card.disk) > 0
    assert card.memory <= card.ram or card.device == "cuda"


def test_a_given_amount_wins(tmp_path: Path) -> None:
    card = this_computer(tmp_path, 12_000_000_000)
    assert (card.memory, card.source) == (12_000_000_000, "--memory")
