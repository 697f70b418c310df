# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`predict` finds the volumes, refuses what would go wrong in one line, and says what it wrote."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

VALUES = ["img_size=[32,32,32]", "hidden_size=48", "mlp_dim=96", "num_heads=4", "feature_size=4"]
VALUES += ["labels={background: 0, ball: 1}"]


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def scans(volumes: Path, tmp_path: Path) -> Path:
    """A folder with one volume, one more in a sub-folder, and a file of another kind."""
    (tmp_path / "scans" / "later").mkdir(parents=True)
    shutil.copy(volumes / "case0.nii.gz", tmp_path / "scans")
    shutil.copy(volumes / "case1.nii.gz", tmp_path / "scans" / "later")
    (tmp_path / "scans" / "notes.txt").touch()
    return tmp_path / "scans"


@pytest.fixture
def command(segmentation_runs) -> list[object]:
    values = [*VALUES, f"checkpoint={segmentation_runs[0] / 'model.pt'}"]
    return ["predict", "--bundle", "essa_segmentation", "--args", *values]


def test_every_volume_of_a_folder_is_predicted(monai_essa, command, scans: Path, tmp_path: Path) -> None:
    given = monai_essa(*command, "--input", scans, "--output", tmp_path / "out")
    assert given.code == 0
    assert given.out.splitlines()[-1] == f"2 volumes; wrote 2 files to {tmp_path / 'out'}"
    assert names(tmp_path / "out") == ["case0_seg.nii.gz", "later/case1_seg.nii.gz"]


def test_a_single_file_is_predicted_by_a_relative_path(
    monai_essa, command, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = monai_essa(*command, "--input", "scans/case0.nii.gz", "--output", "out")
    assert given.code == 0
    assert given.out.splitlines()[-1] == "1 volume; wrote 1 file to out"
    assert names(tmp_path / "out") == ["case0_seg.nii.gz"]


def test_an_adapter_is_merged_first(monai_essa, command, segmentation_runs, scans: Path, tmp_path: Path) -> None:
    adapter = segmentation_runs[1] / "adapter.safetensors"
    given = monai_essa(*command, "--adapter", adapter, "--input", scans / "case0.nii.gz", "--output", tmp_path / "out")
    assert given.code == 0
    assert names(tmp_path / "out") == ["case0_seg.nii.gz"]


def test_a_finished_bundle_of_ones_own_needs_nothing_else(
    monai_essa, segmentation_runs, scans: Path, tmp_path: Path
) -> None:
    copied = ("bundles", "copy", "essa_segmentation", tmp_path, "--name", "ball", "--run", segmentation_runs[0])
    assert monai_essa(*copied, "--args", *VALUES).code == 0
    given = monai_essa("predict", "--bundle", tmp_path / "ball", "--input", scans, "--output", tmp_path / "out")
    assert given.code == 0
    assert len(names(tmp_path / "out")) == 2


def test_features_of_an_encoder_are_written_as_its_bundle_does(monai_essa, files, scans: Path, tmp_path: Path) -> None:
    values = [*VALUES[:4], f"checkpoint={files.base}"]
    command = ("predict", "--bundle", "essa_ssa", "--input", scans, "--output", tmp_path / "out")
    assert monai_essa(*command, "--args", *values).code == 0
    rows = (tmp_path / "out" / "features.csv").read_text().splitlines()
    assert [len(row.split(",")) for row in rows] == [49, 49]


def test_a_data_list_and_a_section_of_it_are_predicted(monai_essa, command, volumes: Path, tmp_path: Path) -> None:
    given = monai_essa(*command, "--input", volumes / "dataset.json", "--output", tmp_path / "all")
    assert given.code == 0
    assert names(tmp_path / "all") == [f"case{number}_seg.nii.gz" for number in range(4)]
    section = ("--input", volumes / "dataset.json", "--section", "validation", "--output", tmp_path / "one")
    assert monai_essa(*command, *section).code == 0
    assert names(tmp_path / "one") == ["case3_seg.nii.gz"]


def test_dicom_folders_named_by_uid_give_a_mask_each(monai_essa, command, tmp_path: Path) -> None:
    for number in range(2):
        folder = tmp_path / "uid" / f"1.2.840.113619.2.{number}"
        folder.mkdir(parents=True)
        for z in range(4):
            image = sitk.GetImageFromArray(np.random.default_rng(z).integers(0, 99, (1, 8, 8)).astype(np.int16))
            tags = {"0008|0060": "MR", "0020|000e": folder.name, "0020|000d": f"{folder.name}.9"}
            for tag, text in (tags | {"0020|0032": f"0\\0\\{z}", "0020|0037": "1\\0\\0\\0\\1\\0"}).items():
                image.SetMetaData(tag, text)
            writer = sitk.ImageFileWriter()
            writer.KeepOriginalImageUIDOn()
            writer.SetFileName(str(folder / f"{z}.dcm"))
            writer.Execute(image)
    given = monai_essa(*command, "--input", tmp_path / "uid", "--output", tmp_path / "out")
    assert given.out.splitlines()[-1] == f"2 volumes; wrote 2 files to {tmp_path / 'out'}"
    assert names(tmp_path / "out") == [f"1.2.840.113619.2.{number}_seg.nii.gz" for number in range(2)]


def test_a_scan_with_a_hole_is_refused_and_nothing_is_written(monai_essa, command, scans: Path, tmp_path: Path) -> None:
    image = nib.load(scans / "later" / "case1.nii.gz")
    voxels = image.get_fdata(dtype=np.float32)
    voxels[3, 4, 5] = np.nan
    nib.save(nib.Nifti1Image(voxels, image.affine), scans / "later" / "case1.nii.gz")
    given = monai_essa(*command, "--input", scans, "--output", tmp_path / "out")
    assert given.code == 1
    assert "case1.nii.gz: some voxels are NaN or infinite" in given.err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no FIFO")
def test_a_fifo_is_one_line(monai_essa, command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "scan.nii")
    given = monai_essa(*command, "--input", tmp_path / "scan.nii", "--output", tmp_path / "out")
    assert given.code == 1
    assert len(given.err.splitlines()) == 1 and "scan.nii: expected a regular file" in given.err


def test_an_output_folder_with_files_is_left_alone(monai_essa, command, scans: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    given = monai_essa(*command, "--input", scans, "--output", tmp_path / "out")
    assert given.code == 1
    assert given.err == f"monai-essa: {tmp_path / 'out'} holds files already; give --output an empty or a new folder\n"
    assert names(tmp_path / "out") == ["mine.txt"]


def test_a_missing_input_is_one_line(monai_essa, command, tmp_path: Path) -> None:
    given = monai_essa(*command, "--input", tmp_path / "none.nii.gz", "--output", tmp_path / "out")
    assert given.code == 1
    assert len(given.err.splitlines()) == 1 and "none.nii.gz: no such file or folder" in given.err


def test_a_folder_without_volumes_is_one_line(monai_essa, command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    given = monai_essa(*command, "--input", tmp_path / "empty", "--output", tmp_path / "out")
    assert given.code == 1
    assert len(given.err.splitlines()) == 1 and "found none" in given.err


def test_a_damaged_volume_is_one_line(monai_essa, command, tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(b"nonsense")
    given = monai_essa(*command, "--input", tmp_path / "scan.nii.gz", "--output", tmp_path / "out")
    assert given.code == 1
    assert len(given.err.splitlines()) == 1 and "scan.nii.gz: not a NIfTI file" in given.err


def test_a_bundle_without_weights_is_one_line(monai_essa, scans: Path, tmp_path: Path) -> None:
    command = ("predict", "--bundle", "essa_ssa", "--input", scans, "--output", tmp_path / "out")
    given = monai_essa(*command)
    assert given.code == 1
    assert len(given.err.splitlines()) == 1 and "model.pt: no such weight file" in given.err


def test_a_base_without_an_adapter_is_refused(monai_essa, command, scans: Path, tmp_path: Path) -> None:
    given = monai_essa(*command, "--base", "vit.pt", "--input", scans, "--output", tmp_path / "out")
    assert given.code == 1
    assert "--base WEIGHTS needs --adapter FILE" in given.err
