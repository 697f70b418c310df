# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Datalists are made and checked; the output names counts, what was left out, problems and what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_essa.cli import main
from monai_essa.data import load_datalist


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Ten labelled patients, and two images that fit one label."""
    rng = np.random.default_rng(0)
    for number in range(10):
        save(tmp_path / "images" / f"p{number:02d}.nii.gz", rng.integers(0, 99, (6, 6, 6)).astype(np.int16))
        save(tmp_path / "masks" / f"p{number:02d}_seg.nii.gz", rng.integers(0, 2, (6, 6, 6)).astype(np.uint8))
    save(tmp_path / "images" / "p03_T2.nii.gz", rng.integers(0, 99, (6, 6, 6)).astype(np.int16))
    return tmp_path


@pytest.fixture
def own_volumes(volumes: Path, tmp_path: Path) -> Path:
    """A copy of the volumes that a test may damage."""
    return shutil.copytree(volumes, tmp_path / "volumes")


def test_a_datalist_is_written_beside_the_images_with_its_counts(monai_essa, scans: Path) -> None:
    given = monai_essa("data", "datalist", scans / "images", "--labels", scans / "masks")
    path = scans / "images" / "dataset.json"
    rows = [line.split() for line in given.out.splitlines()]
    assert given.code == 0
    assert ["training", "7", "7", "7"] in rows
    assert ["validation", "1", "1", "1"] in rows
    assert ["testing", "2", "2", "2"] in rows
    assert f"next: monai-essa data check {path}" in given.out
    assert len(load_datalist(path, "training")) == 7


def test_what_was_left_out_is_said_with_the_reason(monai_essa, scans: Path) -> None:
    given = monai_essa("data", "datalist", scans / "images", "--labels", scans / "masks")
    (line,) = (line for line in given.out.splitlines() if line.startswith("left out: "))
    assert line.startswith("left out: p03_T2.nii.gz: p03.nii.gz of the same study was taken")


def test_the_shares_are_numbers_or_fractions_of_patients(monai_essa, scans: Path) -> None:
    out = scans / "own.json"
    given = monai_essa(
        *("data", "datalist", scans / "images", "--labels", scans / "masks", "--out", out),
        *("--fractions", "training=3", "validation=0.2", "--seed", 5),
    )
    assert given.code == 0
    datalist = json.loads(out.read_text())
    assert {name: len(items) for name, items in datalist.items() if isinstance(items, list)} == {
        "training": 3,
        "validation": 2,
        "unlabeled": 5,
    }
    assert datalist["seed"] == 5


def test_an_existing_datalist_is_left_alone(monai_essa, scans: Path) -> None:
    path = scans / "images" / "dataset.json"
    path.write_text("{}", encoding="utf-8")
    given = monai_essa("data", "datalist", scans / "images")
    assert given.code == 1
    assert len(given.err.splitlines()) == 1 and f"{path} exists" in given.err
    assert path.read_text() == "{}"


def test_a_folder_without_images_is_one_line(monai_essa, tmp_path: Path) -> None:
    given = monai_essa("data", "datalist", tmp_path)
    assert given.code == 1
    assert len(given.err.splitlines()) == 1 and "found none" in given.err


@pytest.mark.parametrize("text", ["training", "training=many", "=0.5x"])
def test_a_share_that_is_no_number_is_a_wrong_argument(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["data", "datalist", "scans", "--fractions", text])
    assert stopped.value.code == 2
    assert f"expected SECTION=SHARE such as training=0.7, got '{text}'" in capsys.readouterr().err


def test_sound_data_pass_with_a_summary(monai_essa, volumes: Path) -> None:
    given = monai_essa("data", "check", volumes / "dataset.json")
    assert given.code == 0
    assert "images: training 3, validation 1" in given.out
    assert "size in voxels: median 32 x 32 x 32" in given.out
    assert given.out.splitlines()[-1] == "0 errors, 0 warnings"


def test_each_problem_is_a_line_with_file_problem_and_advice(monai_essa, own_volumes: Path) -> None:
    save(own_volumes / "case1.nii.gz", np.zeros((32, 32, 32), np.int16))
    given = monai_essa("data", "check", own_volumes / "dataset.json")
    assert given.code == 1
    assert given.out.splitlines()[0] == "error: case1.nii.gz (image): every voxel is 0; leave out the file"
    assert given.out.splitlines()[-1] == "1 error, 0 warnings"


def test_only_the_sections_asked_for_are_checked(monai_essa, own_volumes: Path) -> None:
    save(own_volumes / "case3.nii.gz", np.zeros((32, 32, 32), np.int16))
    assert monai_essa("data", "check", own_volumes / "dataset.json", "--section", "training").code == 0
    assert monai_essa("data", "check", own_volumes / "dataset.json", "--section", "training", "validation").code == 1


def test_the_findings_are_written_as_json(monai_essa, own_volumes: Path, tmp_path: Path) -> None:
    (own_volumes / "case2.nii.gz").unlink()
    monai_essa("data", "check", own_volumes / "dataset.json", "--json", tmp_path / "findings.json")
    findings = json.loads((tmp_path / "findings.json").read_text())
    assert findings["errors"] == 1
    assert findings["problems"][0]["file"] == "case2.nii.gz"
    assert set(findings["problems"][0]) == {"severity", "file", "key", "problem", "advice", "others"}
    assert "images: training 3, validation 1" in findings["summary"]


def test_the_findings_overwrite_no_file(monai_essa, own_volumes: Path, tmp_path: Path) -> None:
    original = (own_volumes / "dataset.json").read_bytes()
    given = monai_essa("data", "check", own_volumes / "dataset.json", "--json", own_volumes / "dataset.json")
    assert (given.code, given.out) == (1, "")
    assert "dataset.json exists; expected a new file: give another --json" in given.err
    assert (own_volumes / "dataset.json").read_bytes() == original
    given = monai_essa("data", "check", own_volumes / "dataset.json", "--json", tmp_path / "none" / "findings.json")
    assert (given.code, given.out) == (1, "")
    assert "no such folder for findings.json; make it" in given.err


def test_paths_may_be_relative_to_another_folder(monai_essa, volumes: Path, tmp_path: Path) -> None:
    shutil.copy(volumes / "dataset.json", tmp_path)
    assert monai_essa("data", "check", tmp_path / "dataset.json").code == 1
    assert monai_essa("data", "check", tmp_path / "dataset.json", "--base-dir", volumes).code == 0


def test_real_cases_are_split_and_pass_the_check(monai_essa, hippocampus_tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "dataset.json"
    assert monai_essa("data", "datalist", hippocampus_tiny, "--out", out).code == 0
    given = monai_essa("data", "check", out)
    assert given.code == 0
    assert "label ids (files): 0 (16), 1 (16), 2 (16)" in given.out


def test_label_maps_among_the_scans_become_labels(monai_essa, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(10):
        save(tmp_path / f"p{number}.nii.gz", rng.normal(100, 20, (6, 6, 6)).astype(np.float32))
        save(tmp_path / f"p{number}_roi.nii.gz", 255 * rng.integers(0, 2, (6, 6, 6)).astype(np.uint8))
    given = monai_essa("data", "datalist", tmp_path, "--label-map", "255=1", "--out", tmp_path / "d.json")
    assert given.code == 0
    assert ["training", "7", "7", "7"] in [line.split() for line in given.out.splitlines()]
    assert json.loads((tmp_path / "d.json").read_text())["label_map"] == {"255": 1}
    assert monai_essa("data", "check", tmp_path / "d.json").out.splitlines()[-2:] == [
        "label ids (files): 0 (10), 1 (10)",
        "0 errors, 0 warnings",
    ]
    assert (
        "label ids (files): 0 (10), 2 (10)"
        in monai_essa("data", "check", tmp_path / "d.json", "--label-map", "255=2").out
    )


def test_labels_that_would_be_lost_stop_the_command_in_one_line(monai_essa, scans: Path) -> None:
    (scans / "images" / "p07.nii.gz").unlink()
    given = monai_essa("data", "datalist", scans / "images", "--labels", scans / "masks")
    assert given.code == 1
    (line,) = given.err.splitlines()
    assert (
        "1 label maps of 10 cannot be paired with an image for sure: p07_seg.nii.gz (a label without an image" in line
    )
    assert not (scans / "images" / "dataset.json").exists()
    given = monai_essa("data", "datalist", scans / "images", "--labels", scans / "masks", "--leave-out-unpaired")
    assert given.code == 0
    assert "left out: p07_seg.nii.gz: a label without an image; give both the same name" in given.out
    assert "2 files left out" in given.out


def test_the_channels_of_a_study_are_said_in_their_order(monai_essa, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(10):
        for kind in ("t1n", "t1c", "t2f"):
            save(tmp_path / f"p{number}-{kind}.nii.gz", rng.normal(100, 20, (6, 6, 6)).astype(np.float32))
        save(tmp_path / f"p{number}-seg.nii.gz", rng.integers(0, 2, (6, 6, 6)).astype(np.uint8))
    given = monai_essa("data", "datalist", tmp_path)
    assert "channels of an image, in this order: t1, t1c, flair" in given.out
    datalist = json.loads((tmp_path / "dataset.json").read_text())
    assert datalist["channel_names"] == {"0": "t1", "1": "t1c", "2": "flair"}
    first = datalist["training"][0]
    assert first["image"] == [first["label"].replace("seg", kind) for kind in ("t1n", "t1c", "t2f")]
    assert monai_essa("data", "check", tmp_path / "dataset.json").code == 0


def test_masks_are_images_when_told(monai_essa, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        save(tmp_path / f"shape{number}.nii.gz", rng.integers(0, 2, (6, 6, 6)).astype(np.uint8))
    assert "--images-are-masks" in monai_essa("data", "datalist", tmp_path).err
    assert monai_essa("data", "datalist", tmp_path, "--images-are-masks").code == 0
    assert monai_essa("data", "check", tmp_path / "dataset.json").code == 0


def test_a_pattern_tells_the_patients(monai_essa, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(8):
        save(tmp_path / f"x{number // 2}q{number}.nii.gz", rng.normal(size=(6, 6, 6)).astype(np.float32))
    given = monai_essa("data", "datalist", tmp_path, "--patient-pattern", r"^x(\d)")
    assert ["unlabeled", "4", "8", "0"] in [line.split() for line in given.out.splitlines()]
    given = monai_essa("data", "datalist", tmp_path, "--patient-pattern", "(a+)+", "--out", tmp_path / "other.json")
    assert given.code == 1 and "may take for ever" in given.err


@pytest.mark.parametrize("text", ["255", "255=x", "=1", "x=1"])
def test_a_label_map_that_is_none_is_a_wrong_argument(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["data", "check", "d.json", "--label-map", text])
    assert stopped.value.code == 2
    assert f"expected VALUE=ID such as 255=1, got '{text}'" in capsys.readouterr().err
