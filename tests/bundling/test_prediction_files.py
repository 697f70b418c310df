# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the images that an input stands for, the names of their results, and the folder these arrive in."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from monai_essa.bundling.prediction_files import check_output, find_images, result_names, whole_output

VOXELS = np.random.default_rng(0).integers(0, 200, (4, 5, 6)).astype(np.float32)


def saved(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(VOXELS, np.eye(4)), path)
    return str(path)


def picture(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(VOXELS[0].astype(np.uint8)).save(path)
    return str(path)


def names(*paths: str) -> list[str]:
    return list(result_names([f"/in/{path}" for path in paths]).values())


def test_only_the_suffix_of_an_image_format_is_left_out() -> None:
    assert names("a.nii.gz", "b.mha", "c.seg.nrrd", "d.png", "e.mgz") == ["a", "b", "c", "d", "e"]
    assert names("1.2.840.1", "1.2.840.2") == ["1.2.840.1", "1.2.840.2"]
    assert names("2024.01.05.nii", "scan.v1.nii", "scan.v2.nii") == ["2024.01.05", "scan.v1", "scan.v2"]


def test_a_suffix_that_tells_two_files_apart_is_kept() -> None:
    assert names("p1.nii", "p1.nrrd", "p2.nii") == ["p1.nii", "p1.nrrd", "p2"]
    assert names("P1.nii", "p1.nrrd") == ["P1.nii", "p1.nrrd"]
    assert names("a.nii", "a.nrrd", "a.nii.png") == ["a.nii", "a.nrrd", "a.nii.png"]


def test_folders_below_the_common_one_are_kept() -> None:
    assert names("s1/ct.nii", "s2/ct.nii", "s2/t1/mr.nii") == ["s1/ct", "s2/ct", "s2/t1/mr"]
    assert result_names(["/in/s1/ct.nii"]) == {"/in/s1/ct.nii": "ct"}


def test_a_folder_with_a_dot_is_no_file_with_a_suffix(tmp_path: Path) -> None:
    (tmp_path / "1.2.nii").mkdir()
    assert list(result_names([str(tmp_path / "1.2.nii")]).values()) == ["1.2.nii"]


def test_images_of_npz_files_and_of_channels_have_names() -> None:
    assert names("a.npz#test_images#1", "a.npz#test_images#2") == ["a_test_images_1", "a_test_images_2"]
    assert result_names([("/in/c_0000.nii", "/in/c_0001.nii")]) == {"/in/c_0000.nii": "c_0000"}


def test_an_image_that_comes_twice_is_named() -> None:
    with pytest.raises(ValueError, match=r"^/in/a.nii: two images begin with this file"):
        result_names([("/in/a.nii", "/in/b.nii"), ("/in/a.nii", "/in/c.nii")])


def test_a_folder_stands_for_its_volumes_and_without_them_for_its_pictures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = [picture(tmp_path / "a.png"), picture(tmp_path / "sub" / "b.tif")]
    picture(tmp_path / ".hidden.png")
    assert find_images(tmp_path) == pictures and not caplog.messages
    volumes = [saved(tmp_path / "sub" / "a.nii")]
    assert find_images(tmp_path) == volumes
    assert "pictures beside volumes are passed over (2, such as" in caplog.messages[0]
    assert find_images(tmp_path / "a.png") == pictures[:1]


def test_a_data_list_stands_for_its_images(tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"{number}.nii") for number in range(4)]
    items = {"training": [{"image": "0.nii"}, {"image": ["1.nii", "2.nii"]}], "testing": ["3.nii", "0.nii"], "test": []}
    (tmp_path / "list.json").write_text(json.dumps(items), encoding="utf-8")
    assert find_images(tmp_path / "list.json") == [paths[0], (paths[1], paths[2]), paths[3]]
    assert find_images(tmp_path / "list.json", "testing") == [paths[3], paths[0]]


def test_an_npz_file_stands_for_its_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", test_images=VOXELS, test_labels=np.arange(4))
    assert find_images(tmp_path / "a.npz") == [f"{tmp_path / 'a.npz'}#test_images#{index}" for index in range(4)]


@pytest.mark.parametrize("item", [{"image": 3}, {"image": []}, {"image": [1]}, {"image": None}])
def test_an_item_without_a_path_is_one_line(item: object, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps({"training": [item]}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"list\.json"):
        find_images(tmp_path / "list.json")


def test_an_input_without_images_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("{}", encoding="utf-8")
    for path in (tmp_path, tmp_path / "list.json"):
        with pytest.raises(ValueError, match="expected NIfTI, NRRD, .* or pictures; found none"):
            find_images(path)


def test_a_section_belongs_to_a_data_list(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a data list because a section is named"):
        find_images(Path(saved(tmp_path / "a.nii")), "testing")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no FIFO")
@pytest.mark.parametrize("name", ["pipe", "pipe.json", "pipe.nii"])
def test_a_fifo_is_refused_alone_and_passed_over_in_a_folder(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="expected a regular file, got a FIFO"):
        find_images(tmp_path / name)


def test_results_arrive_together(tmp_path: Path) -> None:
    with whole_output(tmp_path / "new" / "out") as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "a.txt").write_text("a", encoding="utf-8")
        assert [path for path in (tmp_path / "new" / "out").rglob("*.txt") if partial not in path.parents] == []
    assert [path.relative_to(tmp_path / "new" / "out").as_posix() for path in (tmp_path / "new").rglob("*.txt")] == [
        "sub/a.txt"
    ]
    assert len(list((tmp_path / "new" / "out").iterdir())) == 1


@pytest.mark.parametrize("there", [False, True])
def test_an_error_leaves_the_disk_as_it_was(there: bool, tmp_path: Path) -> None:
    if there:
        (tmp_path / "new" / "out").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(KeyboardInterrupt), whole_output(tmp_path / "new" / "out") as partial:
        (partial / "a.txt").touch()
        raise KeyboardInterrupt
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_came_up_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="a.txt exists already"), whole_output(tmp_path / "out") as partial:
        (partial / "a.txt").write_text("ours", encoding="utf-8")
        (tmp_path / "out" / "a.txt").write_text("theirs", encoding="utf-8")
    assert (tmp_path / "out" / "a.txt").read_text(encoding="utf-8") == "theirs"


@pytest.mark.parametrize("name", ["a#1", "a::b"])
def test_an_output_that_monai_would_rename_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="join the names of MONAI's configuration"):
        check_output(tmp_path / name)


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(FileExistsError, match="holds files already"):
        check_output(tmp_path / "out")
