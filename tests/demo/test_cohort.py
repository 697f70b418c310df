# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The demo cohort: what is written, that it is the same again, and that nothing of a broken run stays."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_essa.demo import cohort
from monai_essa.demo.cohort import CohortSize, load_template, make_cohort

SMALL = CohortSize(source=1, unlabeled=1, training=1, validation=1, test=1)


@pytest.fixture(scope="module")
def template() -> MetaTensor:
    pytest.importorskip("nilearn", reason="the template comes with nilearn, extra [demo]")
    return load_template()


@pytest.fixture
def read_once(template: MetaTensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares a test the two seconds of reading the template again."""
    monkeypatch.setattr(cohort, "load_template", lambda: template)


@pytest.fixture(scope="module")
def small_cohort(template: MetaTensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cohort(tmp_path_factory.mktemp("cohort") / "demo", SMALL)


def _items(datalist: Path) -> list[dict[str, str]]:
    content = json.loads(datalist.read_text(encoding="utf-8"))
    return [item for domain in ("source", "target") for items in content[domain].values() for item in items]


def _bytes(datalist: Path) -> dict[str, bytes]:
    folder = datalist.parent
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_each_section_holds_the_volumes_asked_for(small_cohort: Path) -> None:
    content = json.loads(small_cohort.read_text(encoding="utf-8"))

    assert [len(items) for items in content["source"].values()] == [1]
    assert {section: len(items) for section, items in content["target"].items()} == {
        "unlabeled": 1,
        "training": 1,
        "validation": 1,
        "test": 1,
    }
    images = [item["image"] for item in _items(small_cohort)]
    assert len(set(images)) == len(images)


def test_only_labelled_sections_name_labels(small_cohort: Path) -> None:
    content = json.loads(small_cohort.read_text(encoding="utf-8"))

    assert all("label" not in item for item in content["source"]["unlabeled"] + content["target"]["unlabeled"])
    assert all("label" in item for section in ("training", "validation", "test") for item in content["target"][section])


def test_every_file_named_exists_and_no_other_volume(small_cohort: Path) -> None:
    named = {item[key] for item in _items(small_cohort) for key in ("image", "label") if key in item}

    assert named | {"datalist.json"} == set(_bytes(small_cohort))


def test_datalist_says_where_the_volumes_come_from(small_cohort: Path) -> None:
    content = json.loads(small_cohort.read_text(encoding="utf-8"))

    assert "template-derived" in content["name"]
    assert "Copyright (C) 1993-2004 Louis Collins" in content["licence"]
    assert (content["seed"], content["generator_version"]) == (0, cohort.GENERATOR_VERSION)


def test_image_and_label_share_one_geometry_in_millimetres(small_cohort: Path) -> None:
    item = json.loads(small_cohort.read_text(encoding="utf-8"))["target"]["training"][0]
    image, label = (nib.load(small_cohort.parent / item[key]) for key in ("image", "label"))

    np.testing.assert_array_equal(image.affine, label.affine)
    np.testing.assert_allclose(nib.affines.voxel_sizes(image.affine), 3.75)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.shape == label.shape == (48, 64, 48)
    assert set(np.unique(np.asarray(label.dataobj))) == {0, 1, 2}


def test_the_same_seed_writes_the_same_bytes_whatever_the_number_of_threads(small_cohort: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        again = make_cohort(tmp_path / "again", SMALL)
    finally:
        torch.set_num_threads(threads)

    assert _bytes(again) == _bytes(small_cohort)


@pytest.mark.usefixtures("read_once")
def test_another_seed_gives_other_anatomy(small_cohort: Path, tmp_path: Path) -> None:
    other = make_cohort(tmp_path / "other", CohortSize(source=1, unlabeled=0, training=0, validation=0, test=0), seed=1)

    first = "images/demoA_001.nii.gz"
    assert _bytes(other)[first] != _bytes(small_cohort)[first]


@pytest.mark.usefixtures("read_once")
def test_a_larger_cohort_begins_with_the_volumes_of_a_smaller_one(small_cohort: Path, tmp_path: Path) -> None:
    larger = make_cohort(tmp_path / "larger", CohortSize(source=2, unlabeled=2, training=0, validation=0, test=0))

    for image in ("images/demoA_001.nii.gz", "images/demoB_001.nii.gz", "images/demoB_002.nii.gz"):
        assert _bytes(larger)[image] == _bytes(small_cohort)[image]


def test_an_existing_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")

    with pytest.raises(FileExistsError, match="exists; name a new folder"):
        make_cohort(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.usefixtures("read_once")
def test_a_failure_half_way_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(anatomy: torch.Tensor) -> np.ndarray:
        raise OSError("No space left on device")

    monkeypatch.setattr(cohort, "tissue_labels", full_disk)
    with pytest.raises(OSError, match="No space left"):
        make_cohort(tmp_path / "demo", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_without_nilearn_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nilearn", None)

    with pytest.raises(ImportError, match=r'pip install "monai_essa\[demo\]"'):
        make_cohort(tmp_path / "demo", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_negative_size_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="CohortSize.source must be 0 or more, got -1"):
        CohortSize(source=-1)
