# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for images in NPZ files: names, axes, labels, and files that hold something else."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from monai_essa.data import load_datalist, npz_items, read_volume
from monai_essa.data.readers.npz import npz_datalist, npz_file, read_npz_image

GREY = np.arange(6 * 4 * 5, dtype=np.uint8).reshape(6, 4, 5)


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """Six grey images, three in colour, two volumes, and labels of one and of several classes."""
    arrays = {
        "train_images": GREY,
        "train_labels": np.array([[0], [1], [1], [0], [1], [1]]),
        "val_images": np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3),
        "val_labels": np.array([[0, 1], [1, 1], [0, 0]]),
        "test_images": np.arange(2 * 8 * 6 * 7, dtype=np.float32).reshape(2, 8, 6, 7),
        "test_labels": np.array([1, 0]),
    }
    np.savez(tmp_path / "scans.npz", **arrays)
    return tmp_path / "scans.npz"


def test_items_name_each_image_with_its_label(npz: Path) -> None:
    items = npz_items(npz)
    assert items[3] == {"image": f"{npz}#train_images#3", "label": 0}
    assert [item["label"] for item in items] == [0, 1, 1, 0, 1, 1]
    assert npz_items(npz, "val")[0] == {"image": f"{npz}#val_images#0", "label": [0, 1]}
    assert npz_items(npz, "testing") == npz_items(npz, "test")


def test_a_file_is_a_datalist_of_the_splits_that_it_holds(npz: Path) -> None:
    datalist = npz_datalist(npz)
    assert {section: len(items) for section, items in datalist.items()} == {
        "training": 6,
        "validation": 3,
        "testing": 2,
    }
    assert datalist["testing"][1] == {"image": "scans.npz#test_images#1", "label": 0}
    np.savez(npz, val_images=GREY, val_labels=np.zeros(6, int))
    assert list(npz_datalist(npz)) == ["validation"]
    assert load_datalist(npz, "val")[5] == {"image": f"{npz}#val_images#5", "label": 0}
    np.savez(npz, images=GREY)
    with pytest.raises(
        ValueError, match=r"expected train_images, val_images, test_images, the file holds images; corr"
    ):
        npz_datalist(npz)
    with pytest.raises(FileNotFoundError, match=r"gone.npz: no such file"):
        npz_datalist("gone.npz")


def test_a_volume_is_turned_to_x_y_z_and_colours_become_channels(npz: Path) -> None:
    volume, affine = read_volume(f"{npz}#test_images#1")
    assert volume.shape == (1, 7, 6, 8) and np.array_equal(affine, np.eye(4))
    with np.load(npz) as file:
        assert volume[0, 6, 5, 0] == file["test_images"][1, 0, 5, 6]
        colours = read_volume(f"{npz}#val_images#1")[0]
        assert colours.shape == (3, 5, 4) and colours[2, 3, 1] == file["val_images"][1, 1, 3, 2]


def test_the_file_of_a_name_is_found() -> None:
    assert npz_file("a/b.npz#x#1") == "a/b.npz" and npz_file("a/b.nii") == "a/b.nii"


def test_complex_numbers_are_refused_in_one_line(npz: Path) -> None:
    np.savez(npz, train_images=GREY + 1j, train_labels=np.ones(6, int))
    with pytest.raises(ValueError, match=r"scans\.npz#train_images#0: expected real numbers, got .* complex"):
        read_volume(f"{npz}#train_images#0")


def test_a_file_that_changes_is_read_again(npz: Path) -> None:
    import os

    assert npz_items(npz)[0]["label"] == 0
    np.savez(npz, train_images=GREY, train_labels=np.ones(6, int))
    os.utime(npz, (1, 1))
    assert npz_items(npz)[0]["label"] == 1


def test_a_limit_keeps_the_proportion_of_the_classes_and_nests(npz: Path) -> None:
    three, four = (npz_items(npz, limit=limit, seed=1) for limit in (3, 4))
    assert sorted(item["label"] for item in three) == [0, 1, 1]
    assert four[:3] == three
    assert {str(npz_items(npz, limit=3, seed=seed)) for seed in range(8)} != {str(three)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("{npz}#train_images#6", r"index 6 is out of range, train_images holds 6 images"),
        ("{npz}#train_image#0", r"expected the array 'train_image', the file holds train_images, train_labels, val_"),
        ("{npz}#train_labels#0", r"expected an image of 2 or 3 dimensions, got \(1,\)"),
        ("{npz}#train_images", r"expected FILE.npz#ARRAY#INDEX"),
        ("gone.npz#train_images#0", r"^gone.npz: no such file; correct the path"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused_in_one_line(npz: Path, name: str, expected: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=expected) as caught:
        read_npz_image(name.format(npz=npz))
    assert "\n" not in str(caught.value)


def damaged(kind: str, path: Path) -> None:
    good = path.read_bytes()
    if kind == "cut":
        path.write_bytes(good[: len(good) // 2])
    elif kind == "text":
        path.write_text("not an archive", encoding="utf-8")
    elif kind == "pickle":
        np.savez(path, train_images=np.array([{}, []], dtype=object), train_labels=np.zeros(2))
    elif kind == "one array":
        with path.open("wb") as file:
            np.save(file, GREY)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("train_images.npy", b"\x93NUMPY")


@pytest.mark.parametrize("kind", ["cut", "text", "pickle", "one array", "empty array"])
def test_a_damaged_file_is_named_and_no_pickle_is_opened(kind: str, npz: Path) -> None:
    damaged(kind, npz)
    with pytest.raises(ValueError, match=f"^{re.escape(str(npz))}: not an NPZ file of plain arrays, or a damaged one"):
        npz_items(npz)


def test_images_without_their_labels_are_refused(npz: Path) -> None:
    np.savez(npz, train_images=GREY, train_labels=np.zeros(5))
    with pytest.raises(ValueError, match=r"got train_images \(6, 4, 5\) and train_labels \(5,\)"):
        npz_items(npz)
    with pytest.raises(ValueError, match=r"limit=7: expected 1 to 3, the number of items in .*scans.npz val"):
        np.savez(npz, val_images=GREY[:3], val_labels=np.zeros(3))
        npz_items(npz, "val", limit=7)


def test_real_medmnist_files_are_read(data_dir: Path) -> None:
    xray, adrenal = (
        data_dir / name
        for name in ("pneumoniamnist/pneumoniamnist.npz", "adrenalmnist3d/adrenalmnist3d_32_partialvolume.npz")
    )
    assert [len(npz_items(xray, split)) for split in ("train", "val", "test")] == [4708, 524, 624]
    assert sum(item["label"] for item in npz_items(adrenal, "test")) == 69
    assert read_volume(npz_items(adrenal, "test")[0]["image"])[0].shape == (1, 32, 32, 32)
