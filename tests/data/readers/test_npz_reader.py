# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for NPZReader: the images of NPZ files in MONAI's LoadImaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from monai.data import DataLoader, Dataset
from monai.transforms import LoadImaged
from PIL import Image

from monai_essa.data import NPZReader, npz_items

GREY = np.random.default_rng(0).integers(0, 255, (6, 4, 5), dtype=np.uint8)


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """Six grey images with labels."""
    np.savez(tmp_path / "scans.npz", train_images=GREY, train_labels=np.array([0, 1, 1, 0, 1, 1]))
    return tmp_path / "scans.npz"


def test_an_image_is_turned_to_x_and_y_as_monai_reads_a_png(npz: Path, tmp_path: Path) -> None:
    Image.fromarray(GREY[2]).save(tmp_path / "2.png")
    load = LoadImaged(keys="image", reader="monai_essa.data.NPZReader", ensure_channel_first=True)
    image = load({"image": f"{npz}#train_images#2"})["image"]
    expected = LoadImaged(keys="image", ensure_channel_first=True)({"image": str(tmp_path / "2.png")})["image"]
    assert image.shape == (1, 5, 4)
    assert np.array_equal(image, expected)
    assert np.array_equal(image.affine, np.eye(4))


def test_images_share_a_batch_over_worker_processes(npz: Path) -> None:
    load = LoadImaged(keys="image", reader="monai_essa.data.NPZReader", ensure_channel_first=True)
    (batch,) = DataLoader(Dataset(npz_items(npz), load), batch_size=6, num_workers=1)
    assert np.array_equal(batch["image"][:, 0], GREY.transpose(0, 2, 1))
    assert batch["label"].tolist() == [0, 1, 1, 0, 1, 1]


def test_the_reader_takes_names_in_npz_files_only() -> None:
    assert NPZReader().verify_suffix("a.npz#train_images#0")
    assert not NPZReader().verify_suffix(["a.npz#train_images#0", "b.nii.gz"])
