# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""Tests for pictures: the array that inference reads, and files that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from monai.transforms import LoadImaged
from PIL import Image

from monai_essa.data.picture import read_picture

COLOURS = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


@pytest.mark.parametrize("array", [COLOURS[..., 0], COLOURS], ids=["grey", "colours"])
def test_a_picture_is_what_monai_reads_in_inference(array: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(array).save(tmp_path / "a.png")
    item = {"image": str(tmp_path / "a.png")}
    ours = LoadImaged(keys="image", reader="monai_essa.data.VolumeReader", ensure_channel_first=True)(item)["image"]
    theirs = LoadImaged(keys="image", ensure_channel_first=True)(item)["image"]
    assert ours.shape == (1 if array.ndim == 2 else 3, 5, 4)
    assert np.array_equal(ours, theirs) and np.array_equal(ours.affine, np.eye(4))
    assert ours[0, 4, 1] == array[1, 4].flat[0]


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    for name, content in {"text.png": b"no picture", "cut.png": whole[: len(whole) // 2], "empty.jpg": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: not a picture, or a damaged one"):
            read_picture(str(tmp_path / name))
    with pytest.raises(FileNotFoundError, match="gone.png: no such file"):
        read_picture(str(tmp_path / "gone.png"))
