# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the facts of a site's scans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_essa.planning.site import site_facts


def site(folder: Path, scans: int = 3, labelled: int = 0, **entries: Any) -> Path:
    """Writes a datalist; scans are 10 x 20 x 30 voxels of 1 x 2 x 4 mm along P, S and R."""
    rng = np.random.default_rng(0)
    affine = np.array([[0, 0, 4, 0], [-1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1.0]])
    items = []
    for number in range(scans):
        voxels = rng.integers(0, 100, (10, 20, 30), dtype=np.int16)
        nib.save(nib.Nifti1Image(voxels, affine), folder / f"{number}.nii")
        items.append({"image": f"{number}.nii"})
        if number < labelled:
            nib.save(nib.Nifti1Image((voxels > 50).astype(np.uint8) * 2, affine), folder / f"{number}_seg.nii")
            items[-1]["label"] = f"{number}_seg.nii"
    path = folder / "dataset.json"
    path.write_text(json.dumps({"training": items} | entries), encoding="utf-8")
    return path


def test_sizes_are_along_right_anterior_superior(tmp_path: Path) -> None:
    facts = site_facts(site(tmp_path))
    assert facts.spacing == (4.0, 1.0, 2.0)
    assert facts.extent == (120.0, 10.0, 40.0)
    assert (facts.scans, facts.read, facts.channels, facts.labelled) == (3, 3, 1, 0)


def test_labels_are_counted_and_their_ids_named(tmp_path: Path) -> None:
    facts = site_facts(site(tmp_path, labelled=2, validation=[{"image": "2.nii", "label": "1_seg.nii"}]))
    assert (facts.labelled, facts.validation, facts.scans) == (2, 1, 3)
    assert facts.classes == {"background": 0, "class_1": 1, "class_2": 2}


@pytest.mark.parametrize("labels", [{"0": "background", "1": "a", "2": "b"}, {"background": 0, "a": 1, "b": 2}])
def test_names_of_the_datalist_win(tmp_path: Path, labels: dict[str, Any]) -> None:
    assert site_facts(site(tmp_path, labelled=1, labels=labels)).classes == {"background": 0, "a": 1, "b": 2}


def test_self_supervision_may_use_all_but_validation_and_test(tmp_path: Path) -> None:
    more = {"unlabeled": ["0.nii", "1.nii"], "validation": ["2.nii"], "test": ["2.nii"]}
    facts = site_facts(site(tmp_path, **more))
    assert (facts.sections, facts.scans) == (("unlabeled", "training"), 5)


def test_a_part_of_many_scans_is_read(tmp_path: Path) -> None:
    site(tmp_path)
    path = site(tmp_path, training=[{"image": "0.nii"}] * 50)
    assert (site_facts(path).scans, site_facts(path).read) == (50, 17)


@pytest.mark.parametrize(
    ("entries", "modality"),
    [
        ({"modality": {"0": "CT"}}, "ct"),
        ({"channel_names": {"0": "T1-weighted"}}, "mr"),
        ({"modality": "ultrasound"}, "us"),
        ({"modality": {"0": "structural"}}, "mr"),
        ({}, "mr"),
    ],
)
def test_the_datalist_tells_the_modality(tmp_path: Path, entries: dict[str, Any], modality: str) -> None:
    assert site_facts(site(tmp_path, **entries)).modality == modality


def test_air_tells_a_ct(tmp_path: Path) -> None:
    path = site(tmp_path)
    for number in range(2):
        nib.save(nib.Nifti1Image(np.full((4, 4, 4), -1000, np.int16), np.eye(4)), tmp_path / f"{number}.nii")
    facts = site_facts(path)
    assert (facts.modality, "-1000" in facts.modality_reason) == ("ct", True)


def test_a_real_datalist(hippocampus_tiny: Path) -> None:
    facts = site_facts(hippocampus_tiny / "dataset.json")
    assert (facts.labelled, facts.validation, facts.modality, facts.modality_reason) == (
        10,
        3,
        "mr",
        "the datalist says MRI",
    )
    assert facts.classes == {"background": 0, "anterior": 1, "posterior": 2}
    assert facts.spacing == (1.0, 1.0, 1.0)


def test_no_images_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="expected images in 'training' or 'unlabeled', it has the sections training, val"
    ):
        site_facts(site(tmp_path, training=[], validation=["0.nii"]))


def test_mixed_scans_are_refused(tmp_path: Path) -> None:
    path = site(tmp_path)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.int16), np.eye(4)), tmp_path / "1.nii")
    with pytest.raises(ValueError, match="scans of one number of channels, all 2-D or all 3-D, got 1 x"):
        site_facts(path)


def test_ids_are_those_after_the_label_map(tmp_path: Path) -> None:
    facts = site_facts(site(tmp_path, labelled=2, label_map={"2": 1}))
    assert facts.classes == {"background": 0, "class_1": 1}


@pytest.mark.parametrize(
    ("entries", "field"),
    [
        ({"modality": {"0": "CT\nbatch_size: $print(1)"}}, "modality"),
        ({"modality": "CT\x85batch_size: $print(1)"}, "modality"),
        ({"modality": ["CT\u2028a: 1"]}, "modality"),
        ({"modality": 7}, "modality"),
        ({"channel_names": {"0": "T1" * 40}}, "channel_names"),
        ({"labels": {"background": 0, "$print(1)": 1}}, "labels"),
        ({"labels": {"0": "background", "1": "@network"}}, "labels"),
        ({"labels": {"0": "background", "1": {"_target_": "os.getcwd"}}}, "labels"),
        ({"labels": {"background": 0, "a": 10**9}}, "labels"),
    ],
)
def test_text_that_is_no_name_is_refused_with_file_and_field(
    tmp_path: Path, entries: dict[str, Any], field: str
) -> None:
    path = site(tmp_path, labelled=1, **entries)
    with pytest.raises(ValueError, match=f"^{path}, field '{field}'") as caught:
        site_facts(path)
    assert str(caught.value).isprintable()


def test_an_id_that_no_network_has_channels_for_is_refused(tmp_path: Path) -> None:
    path = site(tmp_path, labelled=1)
    nib.save(nib.Nifti1Image(np.full((10, 20, 30), 2**31 - 1, np.int32), np.eye(4)), tmp_path / "0_seg.nii")
    with pytest.raises(ValueError, match="dataset.json, the label maps: expected names and ids from 0 to 32767"):
        site_facts(path)
