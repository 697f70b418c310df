# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""Tests for pictures: the array that inference reads, and files that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from monai.transforms import LoadImaged
from PIL import Image

from monai_essa.data.readers.volume_file import read_picture

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


INVERTED = [255 - level for level in range(256) for _ in range(3)]
GREY = np.arange(240, dtype=np.uint8).reshape(12, 20)


def palette(path: Path, colours: list[int]) -> str:
    picture = Image.fromarray(GREY).convert("P")
    picture.putpalette(colours)
    picture.save(path)
    return str(path)


def test_a_palette_gives_the_colours_that_a_viewer_shows(tmp_path: Path) -> None:
    grey = read_picture(palette(tmp_path / "grey.png", INVERTED))
    assert np.array_equal(grey.array, 255 - GREY.T) and grey.channel is None
    red = read_picture(palette(tmp_path / "red.png", [value for level in range(256) for value in (level, 0, 9)]))
    assert np.array_equal(red.array, np.stack([GREY.T, 0 * GREY.T, 0 * GREY.T + 9], -1)) and red.channel == -1
    assert grey.notes == red.notes == ("the palette's colours are taken",)


def test_a_palette_of_a_label_gives_the_class_ids(tmp_path: Path) -> None:
    label = read_picture(palette(tmp_path / "label.png", INVERTED), label=True)
    assert np.array_equal(label.array, GREY.T)
    assert label.notes == ("the numbers of the palette's colours are taken for the class ids",)
    load = LoadImaged(keys="label", reader="monai_essa.data.VolumeReader", ensure_channel_first=True, label=True)
    assert np.array_equal(load({"label": str(tmp_path / "label.png")})["label"][0], GREY.T)


def test_one_bit_is_zero_and_one(tmp_path: Path) -> None:
    Image.fromarray(GREY > 99).save(tmp_path / "a.png")
    array = read_picture(str(tmp_path / "a.png")).array
    assert array.dtype == np.uint8 and np.array_equal(array, GREY.T > 99)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_kept(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(read_picture(str(tmp_path / f"a.{suffix}")).array, GREY.T.astype(int) * 257)


def test_opacity_is_left_out_and_said_where_it_matters(tmp_path: Path) -> None:
    opaque = Image.fromarray(COLOURS).convert("RGBA")
    opaque.save(tmp_path / "opaque.png")
    opaque.putalpha(Image.fromarray(COLOURS[..., 0]))
    opaque.save(tmp_path / "clear.png")
    for name, notes in {"opaque": (), "clear": ("the opacity is left out",)}.items():
        volume = read_picture(str(tmp_path / f"{name}.png"))
        assert np.array_equal(volume.array, COLOURS.transpose(1, 0, 2)) and volume.notes == notes


def test_a_photograph_is_turned_as_its_tag_says(tmp_path: Path) -> None:
    picture = Image.fromarray(GREY)
    tag = picture.getexif()
    tag[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    picture.save(tmp_path / "a.png", exif=tag)
    volume = read_picture(str(tmp_path / "a.png"))
    assert np.array_equal(volume.array, np.rot90(GREY, -1).T)
    assert volume.notes == ("turned upright, as its EXIF tag says",)


def test_ink_becomes_light(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).convert("CMYK").save(tmp_path / "a.tif")
    volume = read_picture(str(tmp_path / "a.tif"))
    assert np.array_equal(volume.array, COLOURS.transpose(1, 0, 2)) and volume.notes == ("CMYK converted to RGB",)


def test_pages_are_refused_and_not_lost(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY), Image.fromarray(GREY[::-1])]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=r"a\.tif: expected one picture, got 2 pages; save each page as a file"):
        read_picture(str(tmp_path / "a.tif"))
