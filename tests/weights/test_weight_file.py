# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Reading weight files."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from monai_essa.weights.file import read_weight_file

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


def endless() -> dict[str, Any]:
    content: dict[str, Any] = {"norm.weight": torch.ones(3)}
    content["again"] = content
    return content


def bomb() -> dict[str, Any]:
    """Each level holds the one below ten times: 10 ** 12 paths in a file of a kilobyte."""
    level: dict[str, Any] = {"weight": torch.ones(1)}
    for _ in range(12):
        level = {str(number): level for number in range(10)}
    return level


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (endless(), "nested without end"),
        (bomb(), "more than 200,000 entries"),
        ({"a": {"b": torch.ones(1)}, "a.b": torch.zeros(1)}, "two tensors that are called 'a.b'"),
        ({0: torch.ones(1), "0": torch.zeros(1)}, "two tensors that are called '0'"),
        ({"x" * 3000: torch.ones(1)}, "endless names"),
    ],
    ids=["cycle", "bomb", "one name twice", "number and text", "long name"],
)
def test_dictionaries_that_are_no_state_dict_are_refused(content: Any, match: str, write: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=rf"weights\.pt holds .*{match}"):
        read_weight_file(write(content))


def test_names_that_are_no_text_are_shown(write: Callable[..., Path]) -> None:
    content = {("a", 1): torch.ones(1), None: torch.ones(1), b"c": torch.ones(1), "line\nline": torch.ones(1)}
    assert list(read_weight_file(write(content)).tensors) == ["('a', 1)", "None", "b'c'", "line\nline"]


def test_a_long_history_is_no_bomb(write: Callable[..., Path]) -> None:
    assert len(read_weight_file(write({"net": STATE, "losses": [0.5] * 300_000})).tensors) == 2


def test_lists_are_flattened(write: Callable[..., Path]) -> None:
    assert list(read_weight_file(write({"folds": [STATE, STATE]})).tensors)[::2] == [
        "folds.0.norm.weight",
        "folds.1.norm.weight",
    ]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\n<!DOCTYPE html><html>log in</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
    ],
)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_what_a_failed_download_leaves_is_named(content: bytes, what: str, suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"vit.{suffix}").write_bytes(content)
    with pytest.raises(ValueError, match=rf"vit\.{suffix} is .*{what}.*download the file itself"):
        read_weight_file(tmp_path / f"vit.{suffix}")


@pytest.mark.parametrize("shape", [[10**12], [2**40, 2**40], [-1], "x", [1.5]])
def test_a_header_that_declares_more_than_the_file_holds_is_refused(shape: Any, tmp_path: Path) -> None:
    header = json.dumps({"norm.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, 8]}}).encode()
    path = tmp_path / "huge.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ValueError, match=r"huge\.safetensors is no whole safetensors file"):
        read_weight_file(path)


def test_a_compressed_archive_is_refused(tmp_path: Path, write: Callable[..., Path]) -> None:
    with zipfile.ZipFile(write({"norm.weight": torch.zeros(10**6)})) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    with pytest.raises(ValueError, match=r"small\.pt is truncated or no file of torch\.save"):
        read_weight_file(tmp_path / "small.pt")


def test_a_card_that_nests_without_end_is_refused(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "card.safetensors", metadata={"preprocessing": "[" * 100_000})
    with pytest.raises(ValueError, match=r"card\.safetensors.*'preprocessing' must be JSON") as caught:
        read_weight_file(tmp_path / "card.safetensors")
    assert len(str(caught.value)) < 300


def stated(grid: Any) -> OrderedDict[str, torch.Tensor]:
    state = OrderedDict(STATE)
    state._metadata = {"vit.patch_embedding": {"version": 1, "grid": grid}, "vit": {"version": 1}}  # type: ignore
    return state


def test_grids_in_the_metadata_of_a_state_dict_are_read(write: Callable[..., Path]) -> None:
    assert read_weight_file(write({"net": stated([3, 4, 3])})).grids == {"net.vit.patch_embedding": (3, 4, 3)}


@pytest.mark.parametrize("grid", [[0, 4, 3], "abc", [4], [1.5, 2, 2], {"a": 1}, [10**9, 1, 1], None])
def test_a_grid_that_is_none_is_refused(grid: Any, write: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=r"weights\.pt: the grid of 'vit\.patch_embedding'.*expected"):
        read_weight_file(write({"net": stated(grid)}))
