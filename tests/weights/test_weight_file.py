# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Reading weight files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from monai_essa.weights.weight_file import read_weight_file

STATE = {"norm.weight": torch.arange(2000.0), "norm.bias": torch.ones(3, dtype=torch.float16)}


class RunsACommand:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_nested_dictionaries_are_flattened_and_other_values_left_out(write: Callable[..., Path]) -> None:
    path = write({"net": {"module": STATE}, "epoch": 3, "optimizer": {"param_groups": [{"lr": 1e-3}]}})
    assert list(read_weight_file(path).tensors) == ["net.module.norm.weight", "net.module.norm.bias"]


def test_safetensors_and_torch_files_give_the_same_tensors(tmp_path: Path, write: Callable[..., Path]) -> None:
    save_file(STATE, tmp_path / "weights.safetensors")
    one, other = read_weight_file(write(STATE)), read_weight_file(tmp_path / "weights.safetensors")
    assert one.tensors.keys() == other.tensors.keys()
    for key, tensor in one.tensors.items():
        assert tensor.dtype == other.tensors[key].dtype
        assert torch.equal(tensor, other.tensors[key])


def test_the_content_tells_the_format(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "misnamed.pt")
    assert torch.equal(read_weight_file(tmp_path / "misnamed.pt").tensors["norm.weight"], STATE["norm.weight"])


def test_old_torch_format_is_read(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_weight_file(tmp_path / "old.pth").tensors["norm.weight"], STATE["norm.weight"])


def test_checksum_is_that_of_the_file(write: Callable[..., Path]) -> None:
    path = write(STATE)
    assert read_weight_file(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_preprocessing_card_is_read_from_the_metadata(tmp_path: Path) -> None:
    card = {"spacing": [1.0, 1.0, 2.5], "axcodes": "RAS"}
    save_file(STATE, tmp_path / "card.safetensors", metadata={"preprocessing": json.dumps(card)})
    assert read_weight_file(tmp_path / "card.safetensors").preprocessing == card


def test_a_card_that_is_no_json_is_refused(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "card.safetensors", metadata={"preprocessing": "RAS, 1 mm"})
    with pytest.raises(ValueError, match=r"card\.safetensors.*'preprocessing' must be JSON"):
        read_weight_file(tmp_path / "card.safetensors")


@pytest.mark.parametrize("kept", [0, 5, 1000])
def test_a_truncated_torch_file_is_refused(kept: int, write: Callable[..., Path]) -> None:
    path = write(STATE)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"weights\.pt .*(truncated|no weight file)"):
        read_weight_file(path)


def test_a_truncated_old_torch_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(ValueError, match=r"old\.pth is truncated"):
        read_weight_file(path)


@pytest.mark.parametrize("kept", [0, 5, 1000])
def test_a_truncated_safetensors_file_is_refused(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(STATE, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"weights\.safetensors is no whole safetensors file"):
        read_weight_file(path)


def test_a_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.pt").write_text("these are no weights\n" * 10)
    with pytest.raises(ValueError, match=r"notes\.pt"):
        read_weight_file(tmp_path / "notes.pt")


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, write: Callable[..., Path]) -> None:
    trace = tmp_path / "the_code_ran"
    path = write(STATE | {"hook": RunsACommand(trace)})
    with pytest.raises(ValueError, match=r"weights\.pt holds Python objects besides tensors.*re-save"):
        read_weight_file(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "content", [{"best": np.float64(0.9)}, {"net": torch.nn.Linear(2, 2)}], ids=["numpy", "module"]
)
def test_objects_besides_tensors_are_refused(content: dict[str, Any], write: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=r"re-save the state dict"):
        read_weight_file(write(STATE | content))


def test_a_file_without_tensors_is_refused(write: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=r"weights\.pt holds no tensors"):
        read_weight_file(write({"epoch": 3}))


def test_an_adapter_file_is_sent_to_load_adapter(tmp_path: Path) -> None:
    save_file({"encoder:norm.weight": torch.ones(3)}, tmp_path / "site.safetensors", metadata={"monai_essa": "{}"})
    with pytest.raises(ValueError, match=r"site\.safetensors is an adapter.*load_adapter"):
        read_weight_file(tmp_path / "site.safetensors")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        read_weight_file(tmp_path / "nowhere.pt")
