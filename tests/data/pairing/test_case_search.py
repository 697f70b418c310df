# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the search for cases: the layouts of public data sets, tiny, and what cannot be told for sure."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from monai_essa.data.pairing.search import CaseRules, find_cases

SeriesWriter = Callable[..., np.ndarray]

RNG = np.random.default_rng(0)
NUMBERS = ("001", "002", "003")

# Images and labels of one case by layout; "{}" is its number. Of several images "+" joins the channels.
LAYOUTS: dict[str, tuple[list[str], list[str], str]] = {
    "LiTS": (["volume-{}.nii"], ["segmentation-{}.nii"], "volume-{}.nii"),
    "LiTS in two folders": (["ct/volume-{}.nii"], ["seg/segmentation-{}.nii"], "ct/volume-{}.nii"),
    "CT-ORG": (["volume-{}.nii"], ["labels-{}.nii"], "volume-{}.nii"),
    "KiTS": (["case_{}/imaging.nii"], ["case_{}/segmentation.nii"], "case_{}/imaging.nii"),
    "BTCV": (["Training/img/img{}.nii"], ["Training/label/label{}.nii"], "Training/img/img{}.nii"),
    "AMOS": (["imagesTr/amos_{}.nii"], ["labelsTr/amos_{}.nii"], "imagesTr/amos_{}.nii"),
    "FLARE": (["images/FLARE22_Tr_{}_0000.nii"], ["labels/FLARE22_Tr_{}.nii"], "images/FLARE22_Tr_{}_0000.nii"),
    "VerSe": (
        ["rawdata/sub-verse{0}/sub-verse{0}_ct.nii"],
        ["derivatives/sub-verse{0}/sub-verse{0}_seg-vert_msk.nii"],
        "rawdata/sub-verse{0}/sub-verse{0}_ct.nii",
    ),
    "ACDC": (
        ["patient{0}/patient{0}_frame01.nii"],
        ["patient{0}/patient{0}_frame01_gt.nii"],
        "patient{0}/patient{0}_frame01.nii",
    ),
    "BraTS 2023": (
        [f"BraTS-GLI-{{0}}-000/BraTS-GLI-{{0}}-000-{kind}.nii" for kind in ("t1n", "t1c", "t2w", "t2f")],
        ["BraTS-GLI-{0}-000/BraTS-GLI-{0}-000-seg.nii"],
        "+".join(f"BraTS-GLI-{{0}}-000/BraTS-GLI-{{0}}-000-{kind}.nii" for kind in ("t1n", "t1c", "t2w", "t2f")),
    ),
    "autoPET": (["p{}/CTres.nii", "p{}/SUV.nii"], ["p{}/SEG.nii"], "p{0}/CTres.nii+p{0}/SUV.nii"),
    "nnU-Net raw": (
        ["imagesTr/BRATS_{}_0000.nii", "imagesTr/BRATS_{}_0001.nii"],
        ["labelsTr/BRATS_{}.nii"],
        "imagesTr/BRATS_{0}_0000.nii+imagesTr/BRATS_{0}_0001.nii",
    ),
    "ISLES": (
        [f"sub-s{{0}}/ses-1/dwi/sub-s{{0}}_ses-1_{kind}.nii" for kind in ("dwi", "adc")],
        ["derivatives/sub-s{0}/ses-1/sub-s{0}_ses-1_msk.nii"],
        "sub-s{0}/ses-1/dwi/sub-s{0}_ses-1_dwi.nii+sub-s{0}/ses-1/dwi/sub-s{0}_ses-1_adc.nii",
    ),
    "ATLAS": (
        ["sub-r{0}/ses-1/anat/sub-r{0}_ses-1_space-MNI_T1w.nii"],
        ["sub-r{0}/ses-1/anat/sub-r{0}_ses-1_space-MNI_label-L_desc-T1lesion_mask.nii"],
        "sub-r{0}/ses-1/anat/sub-r{0}_ses-1_space-MNI_T1w.nii",
    ),
    "PROMISE12": (["Case{}.mhd"], ["Case{}_segmentation.mhd"], "Case{}.mhd"),
    "left atrium, told by voxels alone": (["{}/lgemri.nrrd"], ["{}/laendo.nrrd"], "{}/lgemri.nrrd"),
    "region of interest, told by voxels alone": (["p{}.nii"], ["p{}_roi.nii"], "p{}.nii"),
    "lesion, told by voxels alone": (["p{}_FLAIR.nii"], ["p{}_FLAIR_lesion.nii"], "p{}_FLAIR.nii"),
    "label before the name": (["p{}.nii"], ["mask_p{}.nii"], "p{}.nii"),
    "FreeSurfer": (["s{}/mri/norm.mgz"], ["s{}/mri/aseg.mgz"], "s{}/mri/norm.mgz"),
    "2-D": (["images/p{}.png"], ["masks/p{}.png"], "images/p{}.png"),
    "ISIC": (["ISIC_{}.jpg"], ["ISIC_{}_segmentation.png"], "ISIC_{}.jpg"),
}


def _save(path: Path, label: bool = False, shape: tuple[int, ...] = (8, 8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = (RNG.integers(0, 3, shape) if label else RNG.normal(100, 20, shape)).astype(np.float32)
    if path.suffix in (".png", ".jpg"):
        Image.fromarray(
            array[..., 0].astype(np.uint8) if label else (RNG.random((64, 64)) * 255).astype(np.uint8)
        ).save(path)
    elif path.suffix == ".mgz":
        nib.save(nib.MGHImage(array, np.eye(4)), path)
    elif path.suffix == ".nii":
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))


def _write(folder: Path, images: list[str], labels: list[str]) -> Path:
    for names, label in ((images, False), (labels, True)):
        for name in names:
            _save(folder / name, label)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_public_layout_is_paired_whole(layout: str, tmp_path: Path) -> None:
    images, labels, taken = LAYOUTS[layout]
    _write(tmp_path, [n.format(i) for i in NUMBERS for n in images], [n.format(i) for i in NUMBERS for n in labels])
    made = find_cases(tmp_path)
    found = {"+".join(image.name for image in case.images): case.label and case.label.name for case in made.cases}
    assert found == {taken.format(i): labels[0].format(i) for i in NUMBERS}
    assert made.left_out == []
    assert len({case.patient for case in made.cases}) == 3


def test_a_structure_is_chosen_where_each_has_a_file_of_its_own(tmp_path: Path) -> None:
    labels = [f"s{i}/segmentations/{organ}.nii" for i in NUMBERS for organ in ("liver", "spleen")]
    _write(tmp_path, [f"s{i}/ct.nii" for i in NUMBERS], labels)
    with pytest.raises(ValueError, match="^6 label maps of 6 cannot be paired with an image for sure: ") as error:
        find_cases(tmp_path)
    assert "choose by --label-pattern, or leave such labels out by --leave-out-unpaired" in str(error.value)
    assert "\n" not in str(error.value)
    made = find_cases(tmp_path, rules=CaseRules(label_pattern="*liver.nii"))
    assert [case.label and case.label.name for case in made.cases] == [f"s{i}/segmentations/liver.nii" for i in NUMBERS]
    assert len(made.left_out) == 3
    made = find_cases(tmp_path, rules=CaseRules(leave_out_unpaired=True))
    assert made.cases == [] and len(made.left_out) == 9


def test_a_label_without_an_image_is_refused_unless_it_may_be_left_out(tmp_path: Path) -> None:
    _write(tmp_path, ["p1.nii", "p2.nii"], ["p1_seg.nii", "p3_seg.nii"])
    with pytest.raises(
        ValueError, match=r"^1 label maps of 2 cannot be paired .*: p3_seg\.nii \(a label without an image"
    ):
        find_cases(tmp_path)
    assert [str(entry) for entry in find_cases(tmp_path, rules=CaseRules(leave_out_unpaired=True)).left_out] == [
        "p3_seg.nii: a label without an image; give both the same name"
    ]


def test_a_recording_over_time_is_no_unlabelled_scan(tmp_path: Path) -> None:
    _write(tmp_path, ["p1_frame01.nii", "p2_frame01.nii"], ["p1_frame01_gt.nii", "p2_frame01_gt.nii"])
    _save(tmp_path / "p1_4d.nii", shape=(8, 8, 8, 5))
    made = find_cases(tmp_path)
    assert [case.name for case in made.cases] == ["p1_frame01.nii", "p2_frame01.nii"]
    assert [str(entry) for entry in made.left_out] == [
        "p1_4d.nii: 5 time points or channels, the other images have 1; split it into 3-D images"
    ]


def test_pictures_of_labels_beside_volumes_are_said(tmp_path: Path, write_series: SeriesWriter) -> None:
    for number in "12":
        write_series(tmp_path / "CT" / number / "DICOM_anon", [0.0, 1.0], f"1.{number}.1", f"1.{number}")
        for slice_number in range(2):
            _save(tmp_path / "CT" / number / "Ground" / f"liver_GT_00{slice_number}.png", label=True)
    with pytest.raises(
        ValueError, match=r"CT/1/Ground \(2 pictures\) \(label maps slice by slice; make them one NIfTI"
    ):
        find_cases(tmp_path)
    assert len(find_cases(tmp_path, rules=CaseRules(leave_out_unpaired=True)).cases) == 2


def test_an_empty_map_is_known_by_its_siblings_and_a_scan_by_its_voxels(tmp_path: Path) -> None:
    _write(tmp_path, ["p1.nii", "p2.nii", "p3.nii"], ["p1_roi.nii", "p2_roi.nii"])
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), np.uint8), np.eye(4)), tmp_path / "p3_roi.nii")
    assert all(case.label for case in find_cases(tmp_path).cases)
    _write(tmp_path / "annotations", ["a1/ct.nii", "a2/ct.nii"], ["a1/s.nii", "a2/s.nii"])
    assert [case.name for case in find_cases(tmp_path / "annotations").cases] == ["a1/ct.nii", "a2/ct.nii"]


def test_masks_are_images_when_told(tmp_path: Path) -> None:
    _write(tmp_path, [], ["a1.nii", "a2.nii"])
    with pytest.raises(ValueError, match="got 2 files that look like label maps; .* or add --images-are-masks"):
        find_cases(tmp_path)
    made = find_cases(tmp_path, rules=CaseRules(images_are_masks=True))
    assert [(case.name, case.label) for case in made.cases] == [("a1.nii", None), ("a2.nii", None)]


def test_pipes_and_unprintable_names_do_not_stop_the_search(tmp_path: Path) -> None:
    _write(tmp_path, ["p1.nii", "p2.nii"], [])
    os.mkfifo(tmp_path / "p3.nii")
    os.mkfifo(tmp_path / "p4")
    _save(tmp_path / "p5\nx: $1.nii")
    (tmp_path / "p6.nii").write_bytes(b"<html>404</html>")
    made = find_cases(tmp_path)
    assert [case.name for case in made.cases] == ["p1.nii", "p2.nii", "p6.nii"]
    assert [str(entry) for entry in made.left_out] == [
        r"'p5\nx: $1.nii': the name has characters that cannot be printed; rename it"
    ]
