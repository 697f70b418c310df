# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the check of a whole datalist."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_essa.data.check.datalist import check_datalist

NiftiWriter = Callable[..., Path]


@pytest.fixture
def datalist(tmp_path: Path, write_nifti: NiftiWriter) -> Path:
    """Four good pairs in two sections."""
    generator = np.random.default_rng(0)
    for i in range(4):
        write_nifti(tmp_path / f"p{i}.nii.gz", generator.normal(size=(4, 5, 6)).astype(np.float32))
        write_nifti(tmp_path / f"p{i}_seg.nii.gz", (np.arange(120) % 2).astype(np.uint8).reshape(4, 5, 6))
    pairs = [{"image": f"p{i}.nii.gz", "label": f"p{i}_seg.nii.gz"} for i in range(4)]
    content = {"labels": {"0": "background", "1": "organ"}, "training": pairs[:3], "test": pairs[3:]}
    return _write(tmp_path / "dataset.json", content)


def _write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def _lines(datalist: Path) -> list[str]:
    return [str(problem) for problem in check_datalist(datalist).problems]


def test_good_data_has_a_summary_and_no_problem(datalist: Path) -> None:
    check = check_datalist(datalist)
    assert check.problems == ()
    assert check.summary == (
        "images: training 3, test 1",
        "labels: 4; patients: 4",
        "size in voxels: median 4 x 5 x 6, 4 x 5 x 6 to 4 x 5 x 6",
        "spacing in mm: median 1 x 1 x 1, 1 x 1 x 1 to 1 x 1 x 1",
        "orientation: RAS 4",
        check.summary[5],
        "label ids (files): 0 (4), 1 (4)",
    )


def test_each_kind_of_bad_file_is_reported_with_its_name(datalist: Path, write_nifti: NiftiWriter) -> None:
    folder = datalist.parent
    write_nifti(folder / "p0.nii.gz", np.zeros((4, 5, 6), np.float32))
    (folder / "p1.nii.gz").write_bytes((folder / "p1.nii.gz").read_bytes()[:200])
    (folder / "p2.nii.gz").unlink()
    write_nifti(folder / "p3_seg.nii.gz", np.zeros((4, 5, 7), np.uint8))
    lines = _lines(datalist)
    assert [line for line in lines if line.startswith("error: p0.nii.gz (image): every voxel is 0; ")]
    assert [line for line in lines if line.startswith("error: p1.nii.gz (image): not a NIfTI file, or a damaged one")]
    assert [line for line in lines if line.startswith("error: p2.nii.gz (image): no such file; ")]
    assert [line for line in lines if line.startswith("error: p3_seg.nii.gz (label): expected the image's shape")]
    assert [line for line in lines if line.startswith("warning: p3_seg.nii.gz (label): only background")]
    assert len(lines) == 5


def test_errors_come_first(datalist: Path, write_nifti: NiftiWriter) -> None:
    write_nifti(datalist.parent / "p0_seg.nii.gz", np.zeros((4, 5, 6), np.uint8))
    (datalist.parent / "p3.nii.gz").unlink()
    check = check_datalist(datalist)
    assert [problem.severity for problem in check.problems] == ["error", "warning"]
    assert check.errors == check.problems[:1]


@pytest.mark.parametrize("labels", [{"0": "background", "2": "organ"}, {"background": 0, "organ": 2}])
def test_ids_are_compared_with_both_styles_of_labels(datalist: Path, labels: dict[str, Any]) -> None:
    content = json.loads(datalist.read_text(encoding="utf-8")) | {"labels": labels}
    (problem,) = check_datalist(_write(datalist, content)).errors
    assert str(problem).startswith("error: p0_seg.nii.gz and 3 more files (label): ids [1] are not among")
    assert problem.others == ("p1_seg.nii.gz", "p2_seg.nii.gz", "p3_seg.nii.gz")


def test_an_item_without_an_image_is_an_error(datalist: Path) -> None:
    content = json.loads(datalist.read_text(encoding="utf-8"))
    content["training"].append({"img": "p0.nii.gz"})
    (problem,) = check_datalist(_write(datalist, content)).problems
    assert (problem.severity, problem.key) == ("error", "training")
    assert "with the key 'image', got {'img': 'p0.nii.gz'}" in problem.problem


def test_a_copy_in_another_section_is_a_leak(datalist: Path) -> None:
    (datalist.parent / "p3.nii.gz").write_bytes((datalist.parent / "p0.nii.gz").read_bytes())
    assert _lines(datalist) == ["error: p3.nii.gz (test): the voxels of p0.nii.gz of 'training'; keep one of the two"]


@pytest.mark.parametrize("name", ["p0_R.nii.gz", "sub/x.nii.gz"])
def test_a_patient_in_two_sections_is_a_leak(datalist: Path, name: str) -> None:
    path = datalist.parent / name
    path.parent.mkdir(exist_ok=True)
    (datalist.parent / "p3.nii.gz").rename(path)
    content = json.loads(datalist.read_text(encoding="utf-8"))
    content["test"] = [{"image": name} | ({} if name.startswith("p0") else {"patient": "p0"})]
    assert "patient p0 is also in 'training'" in _lines(_write(datalist, content))[0]


def test_images_without_labels_and_classes_are_checked(datalist: Path) -> None:
    content = {"unlabeled": ["p0.nii.gz"], "training": [{"image": "p1.nii.gz", "label": 1}]}
    check = check_datalist(_write(datalist, content))
    assert check.problems == ()
    assert check.summary[1] == "labels: 0; patients: 2"
    assert check.summary[-1] == "classes (images): 1 (1)"


def test_several_classes_of_an_image_are_no_files(datalist: Path) -> None:
    content = {"training": [{"image": f"p{number}.nii.gz", "label": [0, number]} for number in (0, 1)]}
    check = check_datalist(_write(datalist, content))
    assert check.problems == ()
    assert check.summary[-1] == "classes (images): [0, 0] (1), [0, 1] (1)"


def test_an_npz_file_is_checked_as_a_datalist(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (5, 6, 6), dtype=np.uint8)
    arrays = {"train_images": images[:4], "train_labels": np.array([0, 1, 1, 1])}
    arrays |= {"val_images": images[[0, 4]], "val_labels": np.array([0, 1])}
    np.savez(tmp_path / "scans.npz", **arrays)
    check = check_datalist(tmp_path / "scans.npz")
    assert [str(problem) for problem in check.problems] == [
        "warning: scans.npz#val_images#0 (validation): the voxels of scans.npz#train_images#0 of 'training'; "
        "keep one of the two"
    ]
    assert check.summary[0] == "images: training 4, validation 2"
    assert check.summary[-1] == "classes (images): 0 (2), 1 (4)"


def test_sections_can_be_chosen(datalist: Path) -> None:
    (datalist.parent / "p3.nii.gz").unlink()
    assert check_datalist(datalist, ["training"]).problems == ()
    with pytest.raises(ValueError, match=r"expected items in \['nothing'\], found none"):
        check_datalist(datalist, ["nothing"])


def test_a_real_vector_field_and_time_series_are_reported(data_dir: Path, tmp_path: Path) -> None:
    odd = data_dir / "odd-files"
    names = ["nifti_5d_vector_intent/warp_t22mt1", "nifti_4d/fmri", "nifti_psr_orientation/t2", "nifti_thick_7p5mm/t2s"]
    content = {"unlabeled": [str(odd / f"{name}.nii.gz") for name in names]}
    check = check_datalist(_write(tmp_path / "odd.json", content))
    assert [Path(problem.file).name for problem in check.errors] == ["warp_t22mt1.nii.gz", "fmri.nii.gz"]
    assert any("Orientationd" in problem.advice for problem in check.problems)


def test_real_pairs_have_no_error(data_dir: Path) -> None:
    for name in ("hippocampus-tiny/dataset.json", "ixi-hippocampus/dataset.json"):
        assert check_datalist(data_dir / name).problems == ()


def test_a_real_label_of_an_uncropped_image_is_an_error(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "odd-files" / "nifti_thick_7p5mm"
    pair = {"image": str(folder / "t2s.nii.gz"), "label": str(folder / "t2s_uncropped_gmseg_manual.nii.gz")}
    (problem,) = check_datalist(_write(tmp_path / "odd.json", {"training": [pair]})).errors
    assert "expected the image's shape 49 x 54 x 9, got 320 x 320 x 11" in problem.problem


def test_a_label_map_listed_as_an_image_is_an_error(datalist: Path) -> None:
    content = json.loads(datalist.read_text(encoding="utf-8"))
    content["unlabeled"] = ["p0_seg.nii.gz"]
    assert any(
        line.startswith("error: p0_seg.nii.gz (image): label map among the images; ")
        for line in _lines(_write(datalist, content))
    )


def test_values_of_255_are_one_line_and_right_with_a_label_map(datalist: Path, write_nifti: NiftiWriter) -> None:
    for i in range(4):
        values = (255 * (np.arange(120) % 2)).astype(np.uint8).reshape(4, 5, 6)
        write_nifti(datalist.parent / f"p{i}_seg.nii.gz", values)
    (line,) = _lines(datalist)
    assert line.startswith("error: p0_seg.nii.gz and 3 more files (label): ids [255] are not among")
    assert check_datalist(datalist, label_map={255: 1}).problems == ()
    content = json.loads(datalist.read_text(encoding="utf-8"))
    check = check_datalist(_write(datalist, content | {"label_map": {"255": 1}}))
    assert check.problems == ()
    assert check.summary[-1] == "label ids (files): 0 (4), 1 (4)"


def test_several_channels_are_checked_as_one_image(datalist: Path) -> None:
    content = {
        "training": [
            {"image": ["p0.nii.gz", "p1.nii.gz"], "label": "p0_seg.nii.gz"},
            {"image": ["p2.nii.gz", "p3.nii.gz"]},
        ]
    }
    (line,) = _lines(_write(datalist, content))
    assert line.startswith("warning: p0.nii.gz (image): 2 channels, as most images; ")


def test_the_check_goes_on_after_each_bad_file(datalist: Path) -> None:
    folder = datalist.parent
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header["dim"][:4] = [3, 10_000, 10_000, 10_000]
    header["magic"], header["vox_offset"] = b"n+1", 352
    (folder / "huge.nii").write_bytes(header.binaryblock + b"\0" * 4)
    os.mkfifo(folder / "pipe.nii.gz")
    (folder / "folder.nii.gz").mkdir()
    (folder / "page.nii.gz").write_bytes(b"<html>404</html>")
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.complex64), np.eye(4)), folder / "complex.nii")
    names = ["huge.nii", "pipe.nii.gz", "folder.nii.gz", "page.nii.gz", "complex.nii"]
    items = [*names, {"image": 3}, {"image": "p0.nii.gz", "label": None}, "p1.nii.gz"]
    check = check_datalist(_write(datalist, {"unlabeled": items}))
    assert [problem.file for problem in check.errors] == ["an item", "an item", *names]
    assert all("\n" not in str(problem) for problem in check.problems)
    assert check.summary[0] == "images: unlabeled 6"


def test_a_misspelt_field_is_said(datalist: Path) -> None:
    content = json.loads(datalist.read_text(encoding="utf-8"))
    content["lables"] = content.pop("labels")
    assert _lines(_write(datalist, content)) == [
        "warning: dataset.json (fields): the field 'lables' is not read; call it 'labels' if that is meant"
    ]
