# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for making and writing datalists."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_essa.data.lists.maker import make_datalist, write_datalist
from monai_essa.data.lists.read import load_datalist, unlabelled_items
from monai_essa.data.pairing.search import CaseRules

SeriesWriter = Callable[..., np.ndarray]
SECTIONS = ("training", "validation", "testing", "unlabeled")


def _touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def _patients(datalist: dict[str, Any]) -> dict[str, set[str]]:
    return {section: {item["patient"] for item in datalist[section]} for section in SECTIONS if section in datalist}


def test_msd_folders_are_split_without_options(tmp_path: Path) -> None:
    names = [f"case_{i}.nii.gz" for i in range(10)]
    _touch(tmp_path, *(f"{folder}/{name}" for folder in ("imagesTr", "labelsTr") for name in names), "imagesTs/t.nii")
    datalist, left_out = make_datalist(tmp_path)
    assert [len(datalist[section]) for section in SECTIONS] == [7, 1, 2, 1]
    assert left_out == []
    assert all(Path(item["label"]).name == Path(item["image"]).name for item in datalist["training"])


def test_no_patient_is_in_two_sections(tmp_path: Path) -> None:
    names = [f"p{i}_{side}.nii" for i in range(9) for side in "LR"]
    _touch(tmp_path, *(f"images/{name}" for name in names), *(f"labels/{name}" for name in names))
    sections = list(_patients(make_datalist(tmp_path / "images", tmp_path / "labels")[0]).values())
    assert sum(map(len, sections)) == len(set.union(*sections)) == 9


def test_a_label_outside_the_labels_folder_is_no_image(tmp_path: Path) -> None:
    _touch(tmp_path, "i/p1.nii", "i/p2.nii", "i/p1_seg.nii", "l/p1.nii", "l/p2.nii")
    datalist, left_out = make_datalist(tmp_path / "i", tmp_path / "l", {"training": 1.0})
    assert sorted(Path(item["image"]).name for item in datalist["training"]) == ["p1.nii", "p2.nii"]
    assert list(map(str, left_out)) == [f"p1_seg.nii: looks like a label but is not in {tmp_path / 'l'}"]


def test_images_and_labels_may_lie_side_by_side(tmp_path: Path) -> None:
    _touch(tmp_path, "p1.nii", "p1_seg.nii", "p2.nii")
    for labels_dir in (None, tmp_path):
        datalist, _ = make_datalist(tmp_path, labels_dir, {"training": 1.0})
        assert [len(datalist[section]) for section in ("training", "unlabeled")] == [1, 1]


def test_an_unlabelled_scan_of_a_test_patient_is_left_out(tmp_path: Path) -> None:
    names = [f"p{i}_L.nii" for i in range(6)]
    _touch(tmp_path, *(f"i/{n}" for n in names), *(f"l/{n}" for n in names), *(f"i/p{i}_R.nii" for i in range(6)))
    datalist, left_out = make_datalist(tmp_path / "i", tmp_path / "l", {"training": 0.5, "testing": 0.5})
    assert len(datalist["unlabeled"]) == 3
    assert len(left_out) == 3
    assert "its patient is in testing; using it would leak" in str(left_out[0])
    assert _patients(datalist)["unlabeled"].isdisjoint(_patients(datalist)["testing"])


def test_counts_hide_the_labels_of_the_rest(tmp_path: Path) -> None:
    names = [f"p{i}.nii" for i in range(10)]
    _touch(tmp_path, *(f"i/{n}" for n in names), *(f"l/{n}" for n in names))
    datalist, _ = make_datalist(tmp_path / "i", tmp_path / "l", {"training": 3, "testing": 2})
    assert [len(datalist[section]) for section in ("training", "testing", "unlabeled")] == [3, 2, 5]
    assert all("label" not in item for item in datalist["unlabeled"])


def test_without_labels_everything_is_unlabeled(tmp_path: Path) -> None:
    datalist, _ = make_datalist(_touch(tmp_path, "a.nii", "b.nii"))
    assert list(datalist) == ["name", "seed", "unlabeled"]
    assert len(datalist["unlabeled"]) == 2


def test_patients_are_folders_or_names_as_asked(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"site{s}/p{i}.nii" for s in "AB" for i in range(3)))
    assert _patients(make_datalist(tmp_path)[0])["unlabeled"] == {"siteA", "siteB"}
    assert _patients(make_datalist(tmp_path, rules=CaseRules(group_by="name"))[0])["unlabeled"] == {"p0", "p1", "p2"}


def test_a_pattern_chooses_the_series(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"sub-{i}/anat/sub-{i}_{kind}.nii" for i in range(3) for kind in ("T1w", "T2w")))
    datalist, left_out = make_datalist(tmp_path, rules=CaseRules(pattern="*_T2w.nii"))
    assert all("T2w" in item["image"] for item in datalist["unlabeled"])
    assert _patients(datalist)["unlabeled"] == {"sub-0", "sub-1", "sub-2"}
    assert left_out == []


def test_dicom_gives_one_series_per_study_and_no_identifier(tmp_path: Path, write_series: SeriesWriter) -> None:
    write_series(tmp_path / "first" / "thin", [0.0, 1.0, 2.0], "1.1.1", "1.1", "secret-1")
    write_series(tmp_path / "first" / "thick", [0.0, 2.0], "1.1.2", "1.1", "secret-1")
    write_series(tmp_path / "second" / "thin", [0.0, 1.0, 2.0], "1.2.1", "1.2", "secret-1")
    write_series(tmp_path / "third" / "thin", [0.0, 1.0, 2.0], "2.1.1", "2.1", "secret-2")
    datalist, left_out = make_datalist(tmp_path)
    assert list(map(str, left_out)) == ["first/thick: first/thin of the same study was taken; choose with a pattern"]
    assert [item["patient"] for item in datalist["unlabeled"]] == ["first", "first", "third"]
    assert "secret" not in json.dumps(datalist)


def test_one_identifier_for_everybody_makes_no_patient(tmp_path: Path, write_series: SeriesWriter) -> None:
    write_series(tmp_path / "first", [0.0, 1.0], "1.1.1", "1.1", "ANONYMOUS")
    write_series(tmp_path / "second", [0.0, 1.0], "1.2.1", "1.2", "ANONYMOUS")
    assert _patients(make_datalist(tmp_path)[0])["unlabeled"] == {"first", "second"}


def test_the_written_file_holds_relative_paths_and_loads(tmp_path: Path) -> None:
    names = [f"p{i}.nii" for i in range(5)]
    _touch(tmp_path, *(f"data/i/{n}" for n in names), *(f"data/l/{n}" for n in names))
    datalist, _ = make_datalist(tmp_path / "data/i", tmp_path / "data/l", {"training": 3})
    path = write_datalist(datalist, tmp_path / "lists" / "mine.json")
    assert json.loads(path.read_text())["training"][0]["image"].startswith("../data/i/p")
    assert len(load_datalist(path)) == 3
    assert len(unlabelled_items(path)) == 2
    assert [other.name for other in path.parent.iterdir()] == ["mine.json"]


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("precious")
    with pytest.raises(FileExistsError, match=r"mine\.json exists"):
        write_datalist({"unlabeled": []}, tmp_path / "mine.json")
    assert (tmp_path / "mine.json").read_text() == "precious"


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    _touch(tmp_path, "i/notes.txt", "j/a.nii")
    with pytest.raises(ValueError, match="expected NIfTI, NRRD, MetaImage or DICOM images"):
        make_datalist(tmp_path / "i")
    with pytest.raises(ValueError, match="expected label files, found none"):
        make_datalist(tmp_path / "j", tmp_path / "i")


def test_real_crops_are_grouped_by_person(data_dir: Path) -> None:
    folder = data_dir / "ixi-hippocampus"
    datalist, left_out = make_datalist(folder / "images", folder / "labels")
    assert [len(datalist[section]) for section in SECTIONS] == [14, 2, 4, 0]
    assert left_out == []


def test_real_msd_folder_is_paired(data_dir: Path) -> None:
    datalist, left_out = make_datalist(data_dir / "hippocampus-tiny")
    assert sum(len(datalist[section]) for section in SECTIONS) == 16
    assert datalist["unlabeled"] == []
    assert left_out == []
