# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The scans of a site in each form that a user may name, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_essa.study.scans import read_site


def scans_in(folder: Path, count: int, labelled: int = 0) -> Path:
    """A folder of scans of noise, some of them with a label map in another folder."""
    random = np.random.RandomState(0)
    for number in range(count):
        _write(folder / "images" / f"case_{number}.nii.gz", random.rand(8, 8, 8).astype(np.float32))
        if number < labelled:
            _write(folder / "labels" / f"case_{number}.nii.gz", np.pad(np.full((2, 2, 2), 2, np.uint8), 3))
    return folder / "images"


def _write(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)


def _listed(folder: Path, **sections: Any) -> Path:
    path = folder / "dataset.json"
    path.write_text(json.dumps(sections), encoding="utf-8")
    return path


def test_a_folder_with_a_folder_of_label_maps(tmp_path: Path) -> None:
    site = read_site(scans_in(tmp_path, 3, labelled=2), tmp_path / "labels")
    assert [scan.label is not None for scan in site.scans] == [True, True, False]
    assert site.task == "segmentation" and site.test_patients is None and not site.named
    assert site.classes == {"background": 0, "class_1": 1, "class_2": 2}


def test_a_folder_with_a_table_of_classes(tmp_path: Path) -> None:
    images = scans_in(tmp_path, 4)
    table = tmp_path / "classes.csv"
    table.write_text("file,class,patient\ncase_0.nii.gz,mass,A\ncase_2,normal,B\ncase_3.nii.gz,mass,A\n")
    site = read_site(images, table)
    assert [scan.label for scan in site.scans] == [0, None, 1, 0]
    assert [site.scans[place].patient for place in (0, 2, 3)] == ["A", "B", "A"]
    assert site.task == "classification" and site.classes == {"mass": 0, "normal": 1}


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ("image,label\nother.nii,1\n", "'other.nii': no scan of that name"),
        ("image,label\ncase_0.nii.gz,1\ncase_0,0\n", "'case_0': the same scan twice"),
        ("scan,finding\ncase_0.nii.gz,1\n", "expected a header with 'image' and 'label', got 'scan, finding'"),
        ("image,label\ncase_0.nii.gz,$code\ncase_1.nii.gz,b\n", "expected plain names, got '\\$code'"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(rows: str, line: str, tmp_path: Path) -> None:
    images = scans_in(tmp_path, 2)
    (tmp_path / "classes.csv").write_text(rows)
    with pytest.raises(ValueError, match=line):
        read_site(images, tmp_path / "classes.csv")


def test_a_list_whose_test_section_has_labels_fixes_the_test_patients(tmp_path: Path) -> None:
    item = [{"image": f"{name}.nii", "label": f"{name}_seg.nii", "patient": name} for name in "abcd"]
    path = _listed(
        tmp_path, labels={"0": "background", "1": "liver"}, training=item[:2], validation=[item[2]], test=[item[3]]
    )
    site = read_site(path)
    assert site.test_patients == ["d"] and len(site.scans) == 4 and site.named
    assert site.classes == {"background": 0, "liver": 1}


def test_a_test_section_without_labels_is_seen_by_ssa(tmp_path: Path) -> None:
    path = _listed(tmp_path, training=[{"image": "a.nii", "label": 0}, {"image": "b.nii", "label": 1}], test=["c.nii"])
    site = read_site(tmp_path)
    assert site.test_patients is None and site.scans[2].label is None
    assert read_site(path).task == "classification"


def test_a_patient_on_both_sides_is_refused(tmp_path: Path) -> None:
    item = {"image": "a.nii", "label": 0, "patient": "p"}
    path = _listed(tmp_path, training=[item], test=[item | {"image": "b.nii"}])
    with pytest.raises(ValueError, match="patient 'p' is in a test section and in another; keep each in one"):
        read_site(path)


def test_label_maps_beside_classes_are_refused(tmp_path: Path) -> None:
    path = _listed(tmp_path, training=[{"image": "a.nii", "label": 0}, {"image": "b.nii", "label": "b_seg.nii"}])
    with pytest.raises(ValueError, match="expected label maps or classes, got both"):
        read_site(path)


def test_empty_label_maps_are_refused(tmp_path: Path) -> None:
    images = scans_in(tmp_path, 2)
    for number in range(2):
        _write(tmp_path / "labels" / f"case_{number}.nii.gz", np.zeros((8, 8, 8), np.uint8))
    with pytest.raises(ValueError, match=f"^{images}: every label map is empty; expected voxels of at least one"):
        read_site(images, tmp_path / "labels")


def test_labels_for_another_task_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--task classification: the labels of .* are for segmentation"):
        read_site(scans_in(tmp_path, 2, labelled=2), tmp_path / "labels", "classification")


def test_the_images_of_an_npz_file_are_patients_each_and_its_test_images_are_the_test(tmp_path: Path) -> None:
    arrays = {f"{split}_images": np.zeros((2, 8, 8), np.uint8) for split in ("train", "val", "test")}
    arrays |= {f"{split}_labels": np.array([[0], [1]]) for split in ("train", "val", "test")}
    np.savez(tmp_path / "x.npz", **arrays)
    site = read_site(tmp_path / "x.npz")
    assert site.test_patients == ["test_images 0", "test_images 1"]
    assert len({scan.patient for scan in site.scans}) == 6 and not site.named
    assert site.classes == {"class_0": 0, "class_1": 1}


def test_images_with_several_classes_have_lists(tmp_path: Path) -> None:
    path = _listed(tmp_path, training=[{"image": "a.nii", "label": [0, 1, 1]}, {"image": "b.nii", "label": [1, 0, 0]}])
    site = read_site(path)
    assert site.several and len(site.classes) == 3


def test_gaps_between_the_ids_of_label_maps_are_closed(tmp_path: Path) -> None:
    """A mask of a drawing program has 0 and 255, which are two classes and not 256."""
    for number, voxels in enumerate(([0, 255, 255, 0], [0, 0, 7, 255])):
        _write(tmp_path / "scans" / f"p{number}.nii.gz", np.arange(8.0).reshape(2, 2, 2))
        _write(tmp_path / "labels" / f"p{number}.nii.gz", np.resize(voxels, (2, 2, 2)).astype(np.uint8))
    site = read_site(tmp_path / "scans", tmp_path / "labels")
    assert site.label_map == {7: 1, 255: 2}
    assert site.classes == {"background": 0, "class_7": 1, "class_255": 2}
