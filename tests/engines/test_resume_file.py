# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.utils.enums import CommonKeys

from monai_essa.engines.checkpoint import read_resume_file, write_resume_file


def content(value: float) -> dict[str, Any]:
    return {"iteration": int(value), "tensors": {"weight": torch.full((3,), value)}}


def read_value(folder: Path) -> float:
    state = read_resume_file(folder)
    assert state is not None
    return state["tensors"]["weight"][0].item()


def test_what_was_written_is_read(tmp_path: Path) -> None:
    state = {"list": [1, 2.5, None, "text", True], "pair": (0.9, 0.999), 3: {"nested": torch.arange(4)}}
    write_resume_file(tmp_path, 1, state)
    again = read_resume_file(tmp_path)
    assert again is not None
    assert again["list"] == state["list"]
    assert again["pair"] == (0.9, 0.999)
    assert torch.equal(again[3]["nested"], torch.arange(4))  # type: ignore[index]


def test_an_empty_or_missing_folder_holds_no_state(tmp_path: Path) -> None:
    assert read_resume_file(tmp_path) is None
    assert read_resume_file(tmp_path / "missing") is None


def test_the_newest_file_is_read_and_the_last_two_are_kept(tmp_path: Path) -> None:
    for iteration in (8, 9, 10, 11):
        write_resume_file(tmp_path, iteration, content(iteration))
    assert read_value(tmp_path) == 11
    assert sorted(file.name.split("-")[0] for file in tmp_path.iterdir()) == ["resume_000000010", "resume_000000011"]


def test_equal_states_are_equal_files(tmp_path: Path) -> None:
    one, other = (write_resume_file(tmp_path / name, 1, content(1)) for name in "ab")
    assert one.name == other.name


def test_the_name_holds_the_sha256_of_the_file(tmp_path: Path) -> None:
    path = write_resume_file(tmp_path, 1, content(1))
    assert path.stem.split("-")[1] == hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit])
def test_a_damaged_file_falls_back_to_the_one_before_with_a_warning(
    damage: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_resume_file(tmp_path, 1, content(1))
    newest = write_resume_file(tmp_path, 2, content(2))
    damage(newest)
    assert read_value(tmp_path) == 1
    assert [newest.name in record.getMessage() for record in caplog.records] == [True]


def test_a_damaged_file_of_a_later_iteration_is_replaced_and_the_good_one_kept(tmp_path: Path) -> None:
    good = write_resume_file(tmp_path, 1, content(1))
    truncate(write_resume_file(tmp_path, 4, content(4)))
    new = write_resume_file(tmp_path, 2, content(2))
    assert set(tmp_path.iterdir()) == {good, new}


def test_two_damaged_files_are_an_error_and_not_a_new_beginning(tmp_path: Path) -> None:
    for iteration in (1, 2):
        truncate(write_resume_file(tmp_path, iteration, content(iteration)))
    with pytest.raises(ValueError, match="all resume files in .* are damaged .*delete the folder"):
        read_resume_file(tmp_path)


def test_a_file_that_was_being_written_when_the_run_was_killed_is_ignored(tmp_path: Path) -> None:
    write_resume_file(tmp_path, 1, content(1))
    half = [tmp_path / name for name in ("resume.partial", f".resume.partial.{'0' * 16}.part")]
    for file in half:
        file.write_bytes(b"half a checkpoint")
    assert read_value(tmp_path) == 1
    write_resume_file(tmp_path, 2, content(2))
    assert read_value(tmp_path) == 2
    assert not any(file.exists() for file in half)


def test_numpy_numbers_and_other_mappings_become_plain(tmp_path: Path) -> None:
    write_resume_file(tmp_path, 1, OrderedDict(best=np.float64(0.5), counts={np.int64(3): np.float32(0.25)}))
    assert read_resume_file(tmp_path) == {"best": 0.5, "counts": {3: 0.25}}


@pytest.mark.parametrize("value", [object(), {1, 2}, CommonKeys.LOSS, {CommonKeys.LOSS: 1.0}, lambda: None])
def test_what_cannot_be_read_without_running_code_is_refused_by_name(value: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"state\.handler\.0 is a "):
        write_resume_file(tmp_path, 1, {"handler": [value]})
    assert list(tmp_path.iterdir()) == []
