# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the cases of a datalist: certain labels, the channels of a study, one series of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from monai_essa.data.pairing.search import fit_labels
from monai_essa.data.pairing.studies import Cases, make_cases
from monai_essa.data.readers.folder import FoundVolume, VolumeLook, find_volumes

GRID = VolumeLook(None, (4, 4, 4), np.eye(4))
OTHER_GRID = VolumeLook(None, (4, 4, 9), np.eye(4))


def _volumes(folder: Path, *names: str) -> tuple[FoundVolume, ...]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return find_volumes(folder)


def _cases(folder: Path, images: list[str], labels: list[str], looks: Mapping[str, VolumeLook] | None = None) -> Cases:
    """Make cases of empty files; ``looks`` says what is seen of files whose name ends so, by default nothing."""
    found, maps = _volumes(folder / "i", *images), _volumes(folder / "l", *labels) if labels else ()
    seen = {
        volume: look for volume in (*found, *maps) for end, look in (looks or {}).items() if volume.name.endswith(end)
    }
    return make_cases(found, fit_labels(found, maps), seen)


def _pairs(made: Cases) -> dict[str, str | None]:
    return {"+".join(i.name for i in case.images): case.label.name if case.label else None for case in made.cases}


def _left_out(made: Cases) -> list[str]:
    return [str(entry) for entry in made.left_out]


def test_an_image_with_several_labels_is_left_out_and_its_labels_are_lost(tmp_path: Path) -> None:
    made = _cases(tmp_path, ["a.nii", "b.nii"], ["a_seg.nii", "a_label.nii", "b.nii"])
    assert _pairs(made) == {"b.nii": "b.nii"}
    assert _left_out(made)[0] == "a.nii: several labels fit (a_label.nii, a_seg.nii); choose one by --label-pattern"
    assert [entry.name for entry in made.left_out if entry.label_lost] == ["a_label.nii", "a_seg.nii"]


def test_a_label_without_an_image_is_lost(tmp_path: Path) -> None:
    made = _cases(tmp_path, ["a.nii", "b.nii"], ["a.nii", "e.nii"])
    assert _left_out(made) == ["e.nii: a label without an image; give both the same name"]
    assert made.left_out[0].label_lost


def test_a_label_that_fits_two_studies_is_given_to_none(tmp_path: Path) -> None:
    made = _cases(tmp_path, ["p1/day1/x.nii", "p1/day2/y.nii"], ["p1.nii"])
    assert set(_pairs(made).values()) == {None}
    assert _left_out(made)[0].startswith("p1.nii: a label that fits 2 images (p1/day1/x.nii, p1/day2/y.nii)")


def test_the_labelled_series_is_taken(tmp_path: Path) -> None:
    made = _cases(tmp_path, ["a_T1.nii", "a_T2.nii", "b_T1.nii"], ["a_T2_seg.nii"])
    assert _pairs(made) == {"a_T2.nii": "a_T2_seg.nii", "b_T1.nii": None}
    assert _left_out(made) == ["a_T1.nii: a_T2.nii of the same study was taken; choose with a pattern"]


def test_without_labels_the_commonest_series_is_taken(tmp_path: Path) -> None:
    made = _cases(tmp_path, ["a_T1.nii", "a_FLAIR.nii", "b_T1.nii", "b_T2.nii", "c_T1.nii"], [])
    assert list(_pairs(made)) == ["a_T1.nii", "b_T1.nii", "c_T1.nii"]


def test_both_sides_of_a_patient_stay(tmp_path: Path) -> None:
    assert _cases(tmp_path, ["a_L.nii", "a_R.nii"], []).left_out == []


def test_channels_of_nnunet_are_one_image_but_case_numbers_are_not(tmp_path: Path) -> None:
    made = _cases(tmp_path, ["a_0000.nii", "a_0001.nii"], ["a.nii"])
    assert (_pairs(made), made.channels) == ({"a_0000.nii+a_0001.nii": "a.nii"}, ("0000", "0001"))
    made = _cases(tmp_path / "n", ["a_0000.nii", "a_0001.nii"], ["a_0000.nii", "a_0001.nii"])
    assert (_pairs(made), made.channels) == ({"a_0000.nii": "a_0000.nii", "a_0001.nii": "a_0001.nii"}, ())


def test_nnunet_channels_are_known_without_labels_by_being_the_same_for_all(tmp_path: Path) -> None:
    images = [f"{case}_000{channel}.nii" for case in "ab" for channel in (0, 1)]
    assert list(_pairs(_cases(tmp_path, images, []))) == ["a_0000.nii+a_0001.nii", "b_0000.nii+b_0001.nii"]
    assert len(_cases(tmp_path / "n", [*images, "a_0002.nii"], []).cases) == 5


def test_modalities_on_one_grid_are_channels_in_a_fixed_order(tmp_path: Path) -> None:
    images = [f"p{n}/p{n}-{kind}.nii" for n in (1, 2) for kind in ("t1c", "t1n", "t2f", "t2w")]
    made = _cases(tmp_path, images, ["p1/p1-seg.nii"], {".nii": GRID})
    assert made.channels == ("t1", "t1c", "t2", "flair")
    assert _pairs(made) == {
        "+".join(f"p{n}/p{n}-{kind}.nii" for kind in ("t1n", "t1c", "t2w", "t2f")): "p1/p1-seg.nii" if n == 1 else None
        for n in (1, 2)
    }


def test_a_modality_on_a_grid_of_its_own_is_no_channel(tmp_path: Path) -> None:
    images = [f"p{n}/{kind}.nii" for n in (1, 2) for kind in ("dwi", "adc", "flair")]
    made = _cases(tmp_path, images, ["p1/msk.nii", "p2/msk.nii"], {".nii": GRID, "flair.nii": OTHER_GRID})
    assert made.channels == ("dwi", "adc")
    assert "p1/flair.nii: p1/dwi.nii of the same study was taken; choose with a pattern" in _left_out(made)


def test_series_of_which_no_header_shows_the_grid_are_not_stacked(tmp_path: Path) -> None:
    made = _cases(tmp_path, ["p1/t1.nii", "p1/t2.nii", "p2/t1.nii", "p2/t2.nii"], [])
    assert list(_pairs(made)) == ["p1/t1.nii", "p2/t1.nii"]


def test_of_two_recordings_of_a_modality_one_on_the_label_is_taken(tmp_path: Path) -> None:
    images = [f"{n}/{place}/{kind}.nii" for n in (1, 2) for place in ("orig", "pre") for kind in ("FLAIR", "T1")]
    made = _cases(tmp_path, images, ["1/wmh.nii", "2/wmh.nii"], {".nii": GRID})
    assert list(_pairs(made)) == [f"{n}/orig/T1.nii+{n}/orig/FLAIR.nii" for n in (1, 2)]
    assert len(made.left_out) == 4


def test_a_study_that_lacks_a_channel_is_left_out_with_the_reason(tmp_path: Path) -> None:
    made = _cases(tmp_path, ["p1_t1.nii", "p1_t2.nii", "p2_t1.nii"], ["p1.nii"], {".nii": GRID})
    assert list(_pairs(made)) == ["p1_t1.nii+p1_t2.nii"]
    assert _left_out(made) == ["p2_t1.nii: its study lacks the channel t2 on its grid, which the others have; add it"]
