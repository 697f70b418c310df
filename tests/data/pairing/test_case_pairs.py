# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for finding the images of a label map by names."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_essa.data.pairing.search import fit_labels
from monai_essa.data.readers.folder import FoundVolume, find_volumes


def _volumes(folder: Path, *names: str) -> tuple[FoundVolume, ...]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return find_volumes(folder)


def _fit(folder: Path, images: list[str], labels: list[str]) -> dict[str, list[str]]:
    fit = fit_labels(_volumes(folder / "i", *images), _volumes(folder / "l", *labels))
    return {label.name: [image.name for image in fitting] for label, fitting in fit.items()}


def test_labels_are_found_by_stem_ending_and_series(tmp_path: Path) -> None:
    images = ["a.nii.gz", "b_0000.nii.gz", "c_T1.nii", "d.nii"]
    assert _fit(tmp_path, images, ["a.nii", "b.nii.gz", "c_seg.nii", "e.nii"]) == {
        "a.nii": ["a.nii.gz"],
        "b.nii.gz": ["b_0000.nii.gz"],
        "c_seg.nii": ["c_T1.nii"],
        "e.nii": [],
    }


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("volume-{}.nii", "segmentation-{}.nii"),
        ("img/img{}.nii", "label/label{}.nii"),
        ("case_{}/imaging.nii", "case_{}/segmentation.nii"),
        ("rawdata/sub-v{0}/sub-v{0}_ct.nii", "derivatives/sub-v{0}/sub-v{0}_seg-vert_msk.nii"),
        ("p{}_FLAIR.nii", "p{}_FLAIR_lesion.nii"),
        ("p{}.nii", "mask_p{}.nii"),
        ("{0}/{0}_img.nii", "{0}/{0}_truth.nii"),
        ("Patient_{0}/Patient_{0}.nii", "Patient_{}/GT.nii"),
        ("Training/img/img{}.nii", "Training/label/label{}.nii"),
        ("ct_train_{}_image.nii", "ct_train_{}_label.nii"),
        ("volume-covid19-A-{}_ct.nii", "volume-covid19-A-{}_seg.nii"),
        ("crossmoda_{}_ceT1.nii", "crossmoda_{}_Label.nii"),
        ("{}_training.nii", "{}_manual1.nii"),
        ("PANCREAS_{}/scan.nii", "label{}.nii"),
        ("siteA/p{}.nii", "p{}.nii"),
    ],
)
def test_what_a_file_is_does_not_count(image: str, label: str, tmp_path: Path) -> None:
    numbers = ["0001", "0002", "0010"]
    fit = _fit(tmp_path, [image.format(n) for n in numbers], [label.format(n) for n in numbers])
    assert fit == {label.format(n): [image.format(n)] for n in numbers}


def test_a_number_that_only_one_side_has_is_no_pair(tmp_path: Path) -> None:
    fit = _fit(tmp_path, ["case_4.nii", "case_6.nii"], ["case_5_seg.nii", "case_6_seg.nii"])
    assert fit == {"case_5_seg.nii": [], "case_6_seg.nii": ["case_6.nii"]}


def test_a_frame_is_not_the_whole_recording(tmp_path: Path) -> None:
    images = [f"patient{n}_{part}.nii" for n in (1, 2) for part in ("4d", "frame01", "frame12")]
    labels = [f"patient{n}_frame{frame}_gt.nii" for n in (1, 2) for frame in ("01", "12")]
    assert _fit(tmp_path, images, labels) == {label: [label.replace("_gt", "")] for label in labels}


def test_the_test_set_may_number_its_cases_anew(tmp_path: Path) -> None:
    fit = _fit(tmp_path, ["imagesTr/p1.nii", "imagesTs/p1.nii"], ["labelsTr/p1.nii"])
    assert fit == {"labelsTr/p1.nii": ["imagesTr/p1.nii"]}


def test_the_same_name_in_several_folders_is_told_by_the_folder(tmp_path: Path) -> None:
    fit = _fit(tmp_path, ["p1/t1.nii", "p2/t1.nii"], ["p1/seg.nii", "p2/seg.nii"])
    assert fit == {"p1/seg.nii": ["p1/t1.nii"], "p2/seg.nii": ["p2/t1.nii"]}


def test_a_label_may_be_named_like_the_folder_of_its_image(tmp_path: Path) -> None:
    assert _fit(tmp_path, ["p1/study/t1.nii"], ["p1.nii"]) == {"p1.nii": ["p1/study/t1.nii"]}


def test_every_series_of_a_study_fits_unless_the_label_names_one(tmp_path: Path) -> None:
    images = [f"p{n}-{kind}.nii" for n in (1, 2) for kind in ("t1c", "t1n")]
    assert _fit(tmp_path, images, ["p1-seg.nii"]) == {"p1-seg.nii": ["p1-t1c.nii", "p1-t1n.nii"]}
    assert _fit(tmp_path / "one", images, ["p1-t1n-seg.nii"]) == {"p1-t1n-seg.nii": ["p1-t1n.nii"]}
