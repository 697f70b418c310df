# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Image files of unknown origin: a volume, or one line that names the file, in a time that goes by the file's size."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from monai_essa.data.check.volumes import volume_facts
from monai_essa.data.readers.folder import look_at
from monai_essa.data.readers.volume_file import open_volume
from tests.fuzz.hostile_values import Draw, damaged, texts
from tests.fuzz.profiles import assert_one_line, guarded, inputs

VOXELS = np.random.default_rng(0).integers(0, 200, (6, 5, 4), dtype=np.int16)
PICTURE = np.random.default_rng(1).integers(0, 200, (5, 6, 3), dtype=np.uint8)
SUFFIXES = (".nii", ".nii.gz", ".hdr", ".mgz", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm", ".png", ".tif", ".jpg", ".npz")


def written(folder: Path, name: str) -> bytes:
    """The bytes of a good file in the format of its suffix."""
    path, picture = folder / name, Image.fromarray(PICTURE)
    if name.endswith((".png", ".tif", ".jpg")):
        picture.save(path)
    elif name.endswith(".npz"):
        np.savez(path, train_images=PICTURE[None], train_labels=np.zeros((1, 1), np.int64))
    elif name.endswith((".nrrd", ".nhdr", ".mha", ".mhd", ".dcm")):
        slices = VOXELS[..., :1] if name.endswith(".dcm") else VOXELS
        sitk.WriteImage(sitk.GetImageFromArray(slices.T), path)
    else:
        kind = {".hdr": nib.Nifti1Pair, ".mgz": nib.MGHImage}.get(path.suffix, nib.Nifti1Image)
        nib.save(kind(VOXELS, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    return path.read_bytes()


@pytest.fixture
def goods(scratch: Path) -> Mapping[str, bytes]:
    """A good file of each kind; the voxels of those with a header of its own stay beside it."""
    return {suffix: written(scratch, f"scan{suffix}") for suffix in SUFFIXES}


def file_of(draw: Draw, goods: Mapping[str, bytes]) -> tuple[str, bytes]:
    suffix = draw(st.sampled_from(SUFFIXES))
    content = goods[suffix]
    if suffix in (".nii.gz", ".mgz") and draw(st.booleans()):  # damaged within the compression
        return suffix, gzip.compress(damaged(draw, gzip.decompress(content)), 1)
    if suffix == ".npz" and draw(st.booleans()):
        array = damaged(draw, npy(np.zeros((1, 5, 6), np.uint8)), 100)
        return suffix, archive({"train_images.npy": array, "train_labels.npy": npy(np.zeros(1, np.int64))})
    if suffix in (".nrrd", ".nhdr", ".mha", ".mhd") and draw(st.booleans()):
        return suffix, with_field(draw, content)
    return suffix, damaged(draw, content)


def npy(array: np.ndarray) -> bytes:
    held = io.BytesIO()
    np.save(held, array)
    return held.getvalue()


def archive(members: Mapping[str, bytes]) -> bytes:
    import zipfile

    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return held.getvalue()


def with_field(draw: Draw, content: bytes) -> bytes:
    """A text header with another value in one of its lines."""
    head, end, voxels = content.partition(b"\n\n") if content.startswith(b"NRRD") else (content, b"", b"")
    lines = head.split(b"\n")
    number = draw(st.integers(0, min(len(lines), 14) - 1))
    name, sign, _ = lines[number].partition(b"=" if b"=" in lines[number] else b":")
    numbers = st.sampled_from(
        ["1000000 1000000 1000000", "0 0 0", "-1 5 4", "nan nan nan", "6 5", "6 5 4 1 1", "1e308"]
    )
    value = draw(texts() | numbers | st.sampled_from(["/etc/passwd", "LIST", "gzip", "short", "scan.raw", "4 4 4"]))
    lines[number] = name + sign + b" " + value.encode("utf-8", "surrogatepass")
    return b"\n".join(lines) + end + voxels


OPENERS: tuple[Callable[[str], object], ...] = (
    open_volume,
    lambda path: open_volume(path, label=True),
    volume_facts,
    lambda path: volume_facts(path, count_values=True),
)


@inputs(250)
@given(data=st.data())
def test_a_file_is_a_volume_or_one_line(data: st.DataObject, goods: Mapping[str, bytes], scratch: Path) -> None:
    suffix, content = file_of(data.draw, goods)
    path = scratch / f"scan{suffix}"
    path.write_bytes(content)
    name = f"{path}#train_images#0" if suffix == ".npz" else str(path)
    try:
        with guarded(30):
            try:
                OPENERS[data.draw(st.integers(0, 3))](name)
            except (ValueError, OSError) as error:
                assert_one_line(error, path.name)
            look_at(path)
    finally:
        path.write_bytes(goods[suffix])


@inputs(40)
@given(name=texts())
def test_any_name_is_a_file_or_one_line(name: str, scratch: Path) -> None:
    with guarded(30), pytest.raises((ValueError, OSError)) as caught:
        open_volume(f"{scratch}/{name}")
    assert_one_line(caught.value)
