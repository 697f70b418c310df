# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Every odd kind of file, through every door of the reading room: a volume, or one line that names the file."""

from __future__ import annotations

import gzip
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from monai.transforms import LoadImaged
from PIL import Image

from monai_essa.data.check.volumes import volume_facts
from monai_essa.data.readers.volume_file import open_volume, read_volume

VOXELS = np.random.default_rng(0).integers(0, 200, (6, 5, 4)).astype(np.float32)
HUGE = np.array([32000] * 3, "<i2")
GREY = np.random.default_rng(1).integers(0, 200, (5, 6), dtype=np.uint8)
SUFFIXES = (".nii", ".nii.gz", ".mgz", ".hdr", ".img", ".nrrd", ".mha", ".mhd", ".nhdr", ".dcm", ".png", ".tif", ".npz")
Maker = Callable[[Path], Path]


def nifti(path: Path, array: np.ndarray = VOXELS, affine: np.ndarray | None = None, **header: object) -> Path:
    image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def patched(path: Path, offset: int, values: object) -> Path:
    """Overwrites bytes of a NIfTI header that nibabel would not write."""
    content = bytearray(nifti(path).read_bytes())
    new = np.asarray(values).tobytes()
    content[offset : offset + len(new)] = new
    path.write_bytes(content)
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def rgb(path: Path) -> Path:
    return nifti(path, np.zeros((6, 5, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]))


def rgba(path: Path) -> Path:
    return nifti(path, np.zeros((6, 5), [("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")]))


def nrrd(path: Path, sizes: str = "6 5 4", more: str = "") -> Path:
    fields = ["NRRD0004", "type: float", "dimension: 3", "space: right-anterior-superior", f"sizes: {sizes}"]
    fields += ["space directions: (2,0,0) (0,2,0) (0,0,2)", "space origin: (4,0,0)", "endian: little", "encoding: raw"]
    return written(path, "\n".join([*fields, *more.splitlines(), "", ""]).encode() + VOXELS.tobytes("F"))


def metaimage(path: Path, sizes: str = "6 5 4", data: str = "LOCAL", more: str = "") -> Path:
    fields = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "CompressedData = False", f"DimSize = {sizes}"]
    fields += ["ElementSpacing = 2 2 2", *more.splitlines(), "ElementType = MET_FLOAT", f"ElementDataFile = {data}", ""]
    return written(path, "\n".join(fields).encode() + VOXELS.tobytes("F"))


def layers(path: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6, 2), np.uint8), isVector=True), str(path))
    return path


def flat_colours(path: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 6, 3), np.uint8), isVector=True), str(path))
    return path


def picture(path: Path, mode: str = "L", **options: object) -> Path:
    Image.fromarray(GREY).convert(mode).save(path, **options)
    return path


def mgz(path: Path) -> Path:
    nib.save(nib.MGHImage(VOXELS, np.eye(4)), path)
    return path


def pair(path: Path) -> Path:
    nib.save(nib.Nifti1Pair(VOXELS, np.eye(4)), path)
    return path


def analyze(path: Path) -> Path:
    nib.save(nib.AnalyzeImage(VOXELS, None), path)
    return path


def without_its_half(path: Path) -> Path:
    pair(path)
    path.with_suffix(".img" if path.suffix == ".hdr" else ".hdr").unlink()
    return path


def upper(path: Path) -> Path:
    return nifti(path.with_name("a.nii.gz")).rename(path)


def bytes_of(path: Path) -> bytes:
    return nifti(path.with_name("whole.nii.gz")).read_bytes()


READ: dict[str, tuple[str, Maker, tuple[int, ...]]] = {
    "plain": ("a.nii", nifti, (1, 6, 5, 4)),
    "upper case": ("A.NII.GZ", upper, (1, 6, 5, 4)),
    "FreeSurfer": ("a.mgz", mgz, (1, 6, 5, 4)),
    "a pair by its header": ("a.hdr", pair, (1, 6, 5, 4)),
    "a pair by its voxels": ("a.img", pair, (1, 6, 5, 4)),
    "Analyze": ("a.hdr", analyze, (1, 6, 5, 4)),
    "one slice": ("a.nii", lambda path: nifti(path, VOXELS[..., :1]), (1, 6, 5, 1)),
    "two dimensions": ("a.nii", lambda path: nifti(path, VOXELS[..., 0]), (1, 6, 5)),
    "a channel axis of one": ("a.nii", lambda path: nifti(path, VOXELS[..., None]), (1, 6, 5, 4)),
    "two axes of one": ("a.nii", lambda path: nifti(path, VOXELS[..., None, None]), (1, 6, 5, 4)),
    "four dimensions": ("a.nii", lambda path: nifti(path, np.stack([VOXELS] * 3, -1)), (3, 6, 5, 4)),
    "colours": ("a.nii", rgb, (3, 6, 5, 4)),
    "colours with opacity": ("a.nii", rgba, (3, 6, 5)),
    "big-endian": ("a.mha", lambda path: metaimage(path, more="BinaryDataByteOrderMSB = True"), (1, 6, 5, 4)),
    "a segmentation of two layers": ("a.seg.nrrd", layers, (2, 6, 5, 4)),
    "flat colours": ("a.mha", flat_colours, (3, 6, 5)),
    "NRRD": ("a.nrrd", nrrd, (1, 6, 5, 4)),
    "MetaImage": ("a.mha", metaimage, (1, 6, 5, 4)),
    "one bit": ("a.png", lambda path: picture(path, "1"), (1, 6, 5)),
    "palette": ("a.png", lambda path: picture(path, "P"), (1, 6, 5)),
    "grey and opacity": ("a.png", lambda path: picture(path, "LA"), (1, 6, 5)),
    "RGBA": ("a.png", lambda path: picture(path, "RGBA"), (3, 6, 5)),
    "CMYK": ("a.jpg", lambda path: picture(path, "CMYK"), (3, 6, 5)),
    "YCbCr": ("a.tif", lambda path: picture(path, "YCbCr"), (3, 6, 5)),
    "floats": ("a.tif", lambda path: picture(path, "F"), (1, 6, 5)),
}

REFUSED: dict[str, tuple[str, Maker, str]] = {
    "complex": ("a.nii", lambda path: nifti(path, VOXELS.astype(np.complex64)), "expected real numbers"),
    "five dimensions": ("a.nii", lambda path: nifti(path, np.stack([VOXELS[..., None]] * 3, -1)), "got 5-D"),
    "a line": ("a.nii", lambda path: nifti(path, VOXELS[0, 0]), "expected voxels in 2 or 3 dimensions"),
    "an empty axis": ("a.nii", lambda path: nifti(path, VOXELS[:0]), "expected voxels in 2 or 3 dimensions"),
    "10^12 voxels": ("a.nii", lambda path: patched(path, 42, np.array([10000] * 3, "<i2")), "10000 x 10000 x 10000"),
    "negative size": ("a.nii", lambda path: patched(path, 42, np.array([-5] * 3, "<i2")), ""),
    "more than it holds": ("a.nii", lambda path: patched(path, 42, np.array([60] * 3, "<i2")), "can hold"),
    "a bomb": (
        "a.nii.gz",
        lambda path: written(path, gzip.compress(patched(path.with_name("b.nii"), 42, HUGE).read_bytes())),
        "can hold",
    ),
    "unknown type": ("a.nii", lambda path: patched(path, 70, np.array(77, "<i2")), "not a NIfTI file, or a damaged"),
    "NaN affine": ("a.nii", lambda path: patched(path, 280, np.array(np.nan, "<f4")), "NaN or infinite"),
    "infinite affine": ("a.nii", lambda path: patched(path, 280, np.array(np.inf, "<f4")), "NaN or infinite"),
    "singular affine": ("a.nii", lambda path: patched(path, 280, np.zeros(4, "<f4")), "a spacing of 0 x 1 x 1 mm"),
    "offset beyond the end": ("a.nii", lambda path: patched(path, 108, np.array(1e9, "<f4")), ""),
    "negative offset": ("a.nii", lambda path: patched(path, 108, np.array(-5.0, "<f4")), ""),
    "NaN offset": ("a.nii", lambda path: patched(path, 108, np.array(np.nan, "<f4")), ""),
    "cut gzip": ("a.nii.gz", lambda path: written(path, bytes_of(path)[:-40]), "not a NIfTI file, or a damaged one"),
    "twice compressed": ("a.nii.gz", lambda path: written(path, gzip.compress(bytes_of(path))), "not a NIfTI file"),
    "gzip called .nii": ("a.nii", lambda path: written(path, bytes_of(path)), "not a NIfTI file"),
    "plain called .nii.gz": ("a.nii.gz", lambda path: nifti(path.with_name("b.nii")).rename(path), "not a NIfTI file"),
    "broken deflate": (
        "a.nii.gz",
        lambda path: written(path, bytes_of(path)[:20] + b"\xff" * 300 + bytes_of(path)[320:]),
        "not a NIfTI file, or a damaged one",
    ),
    "half of a pair": ("a.hdr", without_its_half, ""),
    "other half of a pair": ("a.img", without_its_half, ""),
    "NRRD of 10^12 voxels": ("a.nrrd", lambda path: nrrd(path, "10000 10000 10000"), "can hold"),
    "short NRRD": ("a.nrrd", lambda path: nrrd(path, "6 5 5"), ""),
    "NRRD in two units": ("a.nrrd", lambda path: nrrd(path, more='space units: "um" "mm" "mm"'), "one unit of length"),
    "MetaImage of 10^12 voxels": ("a.mha", lambda path: metaimage(path, "10000 10000 10000"), "can hold"),
    "short MetaImage": ("a.mha", lambda path: metaimage(path, "6 5 9"), "can hold"),
    "header without voxels": ("a.mhd", lambda path: metaimage(path, data="gone.raw"), ""),
    "pages": (
        "a.tif",
        lambda path: picture(path, save_all=True, append_images=[Image.fromarray(GREY)]),
        "expected one picture, got 2 pages",
    ),
    "animation": (
        "a.png",
        lambda path: picture(path, save_all=True, append_images=[Image.fromarray(GREY[::-1])]),
        "expected one picture, got 2 pages",
    ),
    "PostScript called .png": (
        "a.png",
        lambda path: written(path, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "",
    ),
}


def doors(path: Path) -> Iterator[Callable[[], object]]:
    load = LoadImaged(keys="image", reader="monai_essa.data.VolumeReader", ensure_channel_first=True)
    yield lambda: read_volume(path)
    yield lambda: load({"image": str(path)})
    yield lambda: volume_facts(path)
    yield lambda: volume_facts([str(path)], count_values=True)


def assert_refused_in_one_line(path: Path, reason: str = "") -> None:
    for door in doors(path):
        with pytest.raises(ValueError) as caught:
            door()
        assert str(path.parent) in str(caught.value) and path.stem.split(".")[0] in str(caught.value)
        assert reason in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", READ)
def test_what_can_be_read_is_read_alike_through_every_door(kind: str, tmp_path: Path) -> None:
    name, make, shape = READ[kind]
    path = make(tmp_path / name)
    array, affine = read_volume(path)
    assert array.shape == shape and array.dtype.isnative and array.dtype.kind in "iuf"
    loaded = LoadImaged(keys="image", reader="monai_essa.data.VolumeReader", ensure_channel_first=True)(
        {"image": str(path)}
    )["image"]
    assert np.array_equal(loaded, array.astype(np.float32)) and np.allclose(loaded.affine, affine)
    facts = volume_facts(path)
    assert (facts.channels, facts.shape, facts.broken) == (shape[0], shape[1:], 0)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_is_one_line_through_every_door(kind: str, tmp_path: Path) -> None:
    name, make, reason = REFUSED[kind]
    assert_refused_in_one_line(make(tmp_path / name), reason)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\x00" * 999, bytes(range(256)) * 9], ids=len)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_no_image_is_one_line_under_every_name(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = written(tmp_path / f"a{suffix}", content)
    if suffix == ".npz":
        with pytest.raises(ValueError, match=r"a\.npz: not an NPZ file"):
            read_volume(f"{path}#train_images#0")
    else:
        assert_refused_in_one_line(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no FIFO")
@pytest.mark.parametrize("suffix", [*SUFFIXES, ""])
@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_what_is_no_regular_file_is_not_opened(kind: str, suffix: str, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / f"a{suffix}"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        monkeypatch.chdir(tmp_path)  # the path of a socket is short
        socket.socket(socket.AF_UNIX).bind(path.name)
    if suffix == ".npz":
        with pytest.raises(ValueError, match="expected a regular file, got a FIFO, a socket or a device"):
            read_volume(f"{path}#train_images#0")
    else:
        assert_refused_in_one_line(path, "expected a regular file, got a FIFO, a socket or a device")


@pytest.mark.parametrize("suffix", SUFFIXES[:-1])
def test_a_folder_is_a_dicom_series_whatever_its_name(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a{suffix}").mkdir()
    assert_refused_in_one_line(tmp_path / f"a{suffix}", "no DICOM image in this folder")


@pytest.mark.parametrize("name", ["gone.nii.gz", "gone.nrrd", "gone.png", "gone.npz#train_images#0", "gone"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    for door in doors(tmp_path / name):
        with pytest.raises(FileNotFoundError, match="gone.*: no such file; correct the path"):
            door()


@pytest.mark.parametrize("name", ["a" * 300 + ".nii", "a\x00b.nii", "a\x00b.png"])
def test_a_path_that_cannot_be_is_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a path of a file"):
        read_volume(tmp_path / name)


@pytest.mark.parametrize("suffix", [".mha", ".nii", ".mgz"])
@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i4", "f4", "f8"])
def test_values_are_those_of_the_file_in_every_type(suffix: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".mha":
        sitk.WriteImage(sitk.GetImageFromArray(VOXELS.T.astype(kind)), str(path))
    elif suffix == ".mgz":
        nib.save(nib.MGHImage(VOXELS.astype("f4" if kind in ("u2", "f8") else kind), np.eye(4)), path)  # big-endian
    else:
        nib.save(nib.Nifti1Image(VOXELS.astype(kind), np.eye(4), nib.Nifti1Header(endianness=">")), path)
    assert np.array_equal(read_volume(path)[0][0], VOXELS)


@pytest.mark.parametrize(
    ("name", "make"), [("a.png", lambda path: picture(path, "P")), ("a.nii", nifti)], ids=["palette", "NIfTI"]
)
def test_a_label_keeps_the_numbers_that_the_file_holds(name: str, make: Maker, tmp_path: Path) -> None:
    path = make(tmp_path / name)
    raw = np.asarray(Image.open(path)).T if name == "a.png" else VOXELS
    assert np.array_equal(open_volume(str(path), label=True).array, raw)


@pytest.mark.parametrize("name", ["a\nb.nii", "a\x1b[2Jb.nrrd", "a\u202eb.png", "a\x85b.mha"])
def test_a_name_that_does_not_print_is_shown_by_its_escapes(name: str, tmp_path: Path) -> None:
    for error in (FileNotFoundError, ValueError):
        with pytest.raises(error) as caught:
            open_volume(str(tmp_path / name))
        assert str(caught.value).isprintable()
        (tmp_path / name).write_bytes(b"no image")
