# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`adapter info`, `merge`, `diff` and `export`: what a file holds, a network without monai_essa, a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from monai_essa.adapters.file import read_adapter
from monai_essa.bundling.folder import bundle_folder

WIDTH = ["--args", "img_size=[32,32,32]", "hidden_size=48", "mlp_dim=96", "num_heads=4"]


def test_info_names_method_size_network_versions_card_and_base(monai_essa, files) -> None:
    given = monai_essa("adapter", "info", files.adapters[0])
    lines = dict(line.split("  ", 1) for line in given.out.splitlines())
    facts = {name: text.strip() for name, text in lines.items()}
    assert given.code == 0
    assert facts["method"] == "APLA(columns=None, seed=0)"
    assert facts["also trained"] == "nothing"
    assert facts["network"] == "ViT"
    assert facts["tensors"] == "24 with 28,224 values, 24 of them of the method"  # 12 blocks of 48 x 48 + 48
    assert f"torch {torch.__version__}" in facts["made with"]
    assert facts["preprocessing"] == "spacing [1.0, 1.0, 1.0], intensity mr"
    assert facts["licence"] == "not said"
    assert "0.1" in facts["file"] and "MB" in facts["file"]
    assert f"over {len(read_adapter(files.adapters[0]).record['fingerprint'])} frozen" in facts["base"]


def test_info_gives_adapters_of_one_base_one_digest(monai_essa, files) -> None:
    last = [monai_essa("adapter", "info", path).out.splitlines()[-1] for path in files.adapters]
    assert last[0] == last[1]


def test_info_reads_the_header_alone(monai_essa, files, tmp_path: Path) -> None:
    whole = files.adapters[0].read_bytes()
    header = whole[: 8 + int.from_bytes(whole[:8], "little")]
    path = tmp_path / files.adapters[0].name
    path.write_bytes(header.ljust(len(whole), b"\0"))
    given = monai_essa("adapter", "info", path)
    expected = monai_essa("adapter", "info", files.adapters[0]).out.replace(str(files.adapters[0]), str(path))
    assert (given.code, given.out) == (0, expected)


@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_info_refuses_what_is_no_adapter(content: bytes, monai_essa, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    given = monai_essa("adapter", "info", path)
    assert given.code == 1
    assert len(given.err.splitlines()) == 1 and str(path) in given.err


def test_merge_writes_the_weights_of_the_stock_network(monai_essa, files, tmp_path: Path) -> None:
    out = tmp_path / "model.pt"
    command = ("adapter", "merge", files.adapters[1], "--base", files.base, "--out", out)
    given = monai_essa(*command, "--bundle", "essa_ssa", *WIDTH)
    assert given.code == 0
    assert "100.0% of the encoder" in given.out and f"wrote {out}: a plain ViT" in given.out
    state = torch.load(out, weights_only=True)
    assert state.keys() == files.merged[1].keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in files.merged[1].items())


def test_merge_takes_config_files_too(monai_essa, files, tmp_path: Path) -> None:
    config = bundle_folder("essa_ssa") / "configs" / "train.yaml"
    command = ("adapter", "merge", files.adapters[0], "--base", files.base, "--out", tmp_path / "model.pt")
    assert monai_essa(*command, "--config-file", config, *WIDTH).code == 0


def test_merge_leaves_an_existing_file_alone(monai_essa, files, tmp_path: Path) -> None:
    out = tmp_path / "model.pt"
    out.write_text("mine", encoding="utf-8")
    command = ("adapter", "merge", files.adapters[0], "--base", files.base, "--out", out)
    given = monai_essa(*command, "--bundle", "essa_ssa", *WIDTH)
    assert given.code == 1
    assert out.read_text() == "mine"


def test_merge_into_a_network_of_another_width_is_one_line(monai_essa, files, tmp_path: Path) -> None:
    command = ("adapter", "merge", files.adapters[0], "--base", files.base, "--out", tmp_path / "model.pt")
    given = monai_essa(*command, "--bundle", "essa_ssa", "--args", "img_size=[32,32,32]", "hidden_size=96")
    assert given.code == 1
    assert len(given.err.splitlines()) == 1 and "hidden_size is 48 in the file and 96 in the network" in given.err
    assert not (tmp_path / "model.pt").exists()


def test_diff_lists_each_tensor_and_the_whole(monai_essa, files) -> None:
    given = monai_essa("adapter", "diff", *files.adapters)
    lines = given.out.splitlines()
    assert given.code == 0
    assert lines[0] == "methods: the same: APLA(columns=None, seed=0)"
    assert lines[1].startswith("base: the same in the")
    tensors = [line.split() for line in lines if line.startswith("encoder:")]
    assert len(tensors) == 24
    assert all(float(row[-1]) > 0 for row in tensors)
    assert float(lines[-1].removeprefix("all values together: ")) > 0


def test_diff_of_a_file_with_itself_is_zero(monai_essa, files) -> None:
    given = monai_essa("adapter", "diff", files.adapters[0], files.adapters[0])
    assert given.out.splitlines()[-1] == "all values together: 0"


def test_export_writes_a_folder_that_loads_and_says_how_well_the_run_did(
    monai_essa, segmentation_runs, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(segmentation_runs[0], run)
    (run / "test").mkdir()
    (run / "test" / "dice_raw.csv").write_text("filename,class0,mean\n/scans/Smith.nii,0.5,0.5\n/scans/b.nii,nan,nan\n")
    given = monai_essa("adapter", "export", run, "--format", "hub")
    assert given.code == 0, given.err
    assert (
        f"wrote {run / 'hub'}" in given.out and "without the folder peft: peft's format holds LoRA alone" in given.out
    )
    card = (run / "hub" / "README.md").read_text(encoding="utf-8")
    assert "0.500 (higher is better). Mean over the test cases of one run, 1 of which" in card and "Smith" not in card
    assert "Images: 3 in the section 'training'" in card
    assert read_adapter(run / "hub").record == read_adapter(run).record


def test_export_of_a_lone_file_says_that_nothing_was_measured(monai_essa, files, tmp_path: Path) -> None:
    out = tmp_path / "hub"
    assert monai_essa("adapter", "export", files.adapters[0], "--out", out, "--base-model", "me/vit").code == 0
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "base_model: me/vit" in card and "Not measured" in card
    again = monai_essa("adapter", "export", files.adapters[0], "--out", out)
    assert again.code == 1 and "expected a new folder" in again.err


def test_average_writes_an_adapter_and_says_whose_it_is(monai_essa, files, tmp_path: Path) -> None:
    out = tmp_path / "both.safetensors"
    command = ("adapter", "average", *files.adapters, "--weights", 3, 1, "--out", out)
    given = monai_essa(*command)
    assert given.code == 0, given.err
    assert given.out.splitlines()[0].startswith(" 75.0%") and "exact: adapter of the averaged weights" in given.out
    one, other, both = (read_adapter(path).tensors for path in (*files.adapters, out))
    assert all(torch.allclose(both[name], 0.75 * one[name] + 0.25 * other[name], atol=1e-7) for name in one)
    again = monai_essa(*command)
    assert again.code == 1 and f"{out} exists" in again.err
