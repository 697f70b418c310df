# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for DICOM series: order, slice spacing from positions, and what is refused."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from monai_essa.data.readers.dicom import find_series, is_dicom, read_series, series_files, series_notes
from monai_essa.data.readers.volume_file import read_volume

SeriesWriter = Callable[..., np.ndarray]


def test_spacing_comes_from_the_positions_and_not_from_the_thickness(
    tmp_path: Path, write_series: SeriesWriter
) -> None:
    voxels = write_series(tmp_path, [0.0, 2.5, 5.0, 7.5])  # the thickness says 9
    image, affine = read_series(series_files(tmp_path))
    assert np.allclose(affine, [[0.5, 0, 0, 10], [0, 0.75, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1]])
    assert np.array_equal(sitk.GetArrayFromImage(image).T, voxels)


def test_slices_are_sorted_along_the_normal_of_an_oblique_plane(tmp_path: Path, write_series: SeriesWriter) -> None:
    voxels = write_series(tmp_path, [0.0, 3.0, 6.0], tilt=0.3)
    image, affine = read_series(series_files(tmp_path)[::-1])
    assert np.allclose(affine[:3, 2], [0, -3 * np.sin(0.3), 3 * np.cos(0.3)], atol=1e-5)
    assert np.array_equal(sitk.GetArrayFromImage(image).T, voxels)


def test_positions_rounded_by_the_scanner_are_even(tmp_path: Path, write_series: SeriesWriter) -> None:
    write_series(tmp_path, [0.0, 0.6, 1.3, 1.9, 2.5])
    assert read_series(series_files(tmp_path))[1][2, 2] == pytest.approx(0.625)


@pytest.mark.parametrize("distances", [[0, 2, 4, 8, 10], [0, 2, 4, 6, 10], [0, 2, 2, 4], [0, 0, 0]])
def test_a_missing_or_repeated_slice_is_refused(
    tmp_path: Path, write_series: SeriesWriter, distances: list[float]
) -> None:
    write_series(tmp_path, distances)
    with pytest.raises(ValueError, match=r"evenly spaced slices, got gaps of .* mm") as error:
        read_series(series_files(tmp_path))
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_localizer_inside_the_series_is_refused(tmp_path: Path, write_series: SeriesWriter) -> None:
    write_series(tmp_path, [0.0, 2.0, 4.0])
    write_series(tmp_path / "other", [0.0], tilt=1.0)
    (tmp_path / "other" / "1.2.3.1.001").rename(tmp_path / "localizer")
    with pytest.raises(ValueError, match="direction differs from"):
        read_series(series_files(tmp_path))


def test_several_series_are_named_unless_one_is_chosen(tmp_path: Path, write_series: SeriesWriter) -> None:
    write_series(tmp_path, [0.0, 2.0], series="1.2.3.1")
    write_series(tmp_path, [0.0, 2.0, 4.0], series="1.2.3.2")
    with pytest.raises(ValueError, match=r"got 1\.2\.3\.1 \(2 files\), 1\.2\.3\.2 \(3 files\); give series_uid"):
        series_files(tmp_path)
    with pytest.raises(ValueError, match=r"series 9\.9 is not among"):
        series_files(tmp_path, "9.9")
    assert len(series_files(tmp_path, "1.2.3.2")) == 3
    assert len(find_series(tmp_path)) == 2


def test_one_file_stands_for_its_series(tmp_path: Path, write_series: SeriesWriter) -> None:
    write_series(tmp_path, [0.0, 2.0], series="1.2.3.1")
    write_series(tmp_path, [0.0, 2.0, 4.0], series="1.2.3.2")
    assert len(series_files(tmp_path / "1.2.3.2.001")) == 3


def test_a_folder_without_dicom_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    assert not is_dicom(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="no DICOM image in this folder"):
        series_files(tmp_path)


@pytest.mark.parametrize(
    ("thickness", "distance", "expected"),
    [("8.0", "7", 7.0), ("8.0", None, 8.0), ("0", None, 1.0), ("thick", None, 1.0), (None, None, 1.0)],
)
def test_a_single_slice_is_as_thick_as_its_header_says(
    thickness: str | None, distance: str | None, expected: float, tmp_path: Path, write_series: SeriesWriter
) -> None:
    write_series(tmp_path, [0.0], tilt=0.3, tags={"0008|0060": "CT", "0018|0050": thickness})
    path = tmp_path / "1.2.3.1.001"
    written = struct.pack("<HHI", 0x18, 0x88, 2) + b"9 "  # ITK's writer takes it from the image and leaves it never out
    wanted = written[:-2] + f"{distance} ".encode() if distance else struct.pack("<HHI", 0x18, 0x89, 2) + b"9 "
    assert written in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(written, wanted))
    affine = read_series(series_files(tmp_path))[1]
    assert np.allclose(affine[:3, 2], expected * np.array([0, -np.sin(0.3), np.cos(0.3)]))
    assert np.allclose(np.linalg.norm(affine[:3, :2], axis=0), [0.5, 0.75])
    assert series_notes([str(path)]) == (("the slice has no thickness: 1 mm is taken",) if expected == 1 else ())


X_RAY = {"0008|0060": "DX", "0020|0032": None, "0020|0037": None, "0018|0050": None, "0028|0030": None}


@pytest.mark.parametrize(("in_patient", "spacing"), [(None, [0.5, 0.75]), ("0.1\\0.4", [0.4, 0.1])])
def test_the_pixels_of_an_x_ray_are_measured_in_the_patient_if_they_can_be(
    in_patient: str | None, spacing: list[float], tmp_path: Path, write_series: SeriesWriter
) -> None:
    write_series(tmp_path, [0.0], tags=X_RAY | {"0028|0030": in_patient})  # at the detector: 0.5 by 0.75
    affine = read_series(series_files(tmp_path))[1]
    assert np.linalg.norm(affine[:3, :2], axis=0) == pytest.approx(spacing)


def test_x_rays_of_one_series_are_images_of_their_own(tmp_path: Path, write_series: SeriesWriter) -> None:
    write_series(tmp_path, [0.0, 0.0], tags=X_RAY)
    assert [len(series.files) for series in find_series(tmp_path)] == [1, 1]
    assert series_files(tmp_path / "1.2.3.1.001") == (str(tmp_path / "1.2.3.1.001"),)
    with pytest.raises(ValueError, match=r"expected one DICOM series, got 1\.2\.3\.1 \(1 files\), 1\.2\.3\.1"):
        series_files(tmp_path)
    with pytest.raises(ValueError, match="or the path of one file"):
        series_files(tmp_path, "1.2.3.1")


def test_ct_slices_without_a_position_are_not_taken_for_pictures(tmp_path: Path, write_series: SeriesWriter) -> None:
    write_series(tmp_path, [0.0, 2.0], tags={"0008|0060": "CT", "0020|0032": None})
    with pytest.raises(ValueError, match="evenly spaced"):
        read_series(series_files(tmp_path / "1.2.3.1.001"))


def test_an_inverted_picture_is_turned_to_bright_on_dark(tmp_path: Path, write_series: SeriesWriter) -> None:
    voxels = write_series(tmp_path, [0.0], tags=X_RAY)
    path = tmp_path / "1.2.3.1.001"
    path.write_bytes(path.read_bytes().replace(b"MONOCHROME2", b"MONOCHROME1"))
    image, _ = read_series([str(path)])
    array = sitk.GetArrayFromImage(image).T
    assert np.ptp(array + voxels) == 0  # a constant minus the stored values
    assert series_notes([str(path)]) == ("MONOCHROME1, inverted: bright is dense",)


def test_rescale_slope_and_intercept_are_applied(tmp_path: Path, write_series: SeriesWriter) -> None:
    voxels = write_series(tmp_path, [0.0], tags={"0008|0060": "CT"})
    content = (tmp_path / "1.2.3.1.001").read_bytes()
    for element, old, new in [(0x1052, b"0 ", b"-9"), (0x1053, b"1 ", b".5")]:
        tag = struct.pack("<HHI", 0x0028, element, 2)
        assert tag + old in content
        content = content.replace(tag + old, tag + new)
    (tmp_path / "1.2.3.1.001").write_bytes(content)
    assert np.array_equal(read_volume(tmp_path)[0][0], voxels * 0.5 - 9)


def test_colours_stay_colours(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (1, 5, 6, 3), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(tmp_path / "a.dcm"))
    array, _ = read_volume(tmp_path / "a.dcm")
    assert np.array_equal(array, colours.transpose(3, 2, 1, 0))


def test_frames_of_one_file_are_slices(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 900, (5, 10, 12), dtype=np.uint16)
    image = sitk.GetImageFromArray(frames)
    image.SetSpacing([1, 1, 3])
    for name in ("a.dcm", "b.dcm"):  # two such files of one series are two volumes
        sitk.WriteImage(image, str(tmp_path / name))
    array, affine = read_volume(tmp_path / "a.dcm")
    assert np.array_equal(array[0], frames.T) and affine[2, 2] == 3


@pytest.mark.parametrize("kept", [1.0, 0.8, 0.2])
def test_a_slice_that_is_cut_is_named_and_not_left_out(kept: float, tmp_path: Path, write_series: SeriesWriter) -> None:
    write_series(tmp_path, [0.0, 2.0, 4.0])
    last = tmp_path / "1.2.3.1.001"
    content = last.read_bytes()
    last.write_bytes(content[: int(kept * len(content)) - 1])
    with pytest.raises(ValueError, match=r"1\.2\.3\.1\.001: a DICOM slice that is damaged or cut short") as error:
        read_volume(tmp_path)
    assert "\n" not in str(error.value)


def test_files_of_another_kind_are_passed_over(tmp_path: Path, write_series: SeriesWriter) -> None:
    write_series(tmp_path, [0.0, 2.0])
    write_series(tmp_path / "other", [0.0])
    report = bytearray((tmp_path / "other" / "1.2.3.1.001").read_bytes()[:600])
    start = report.index(b"1.2.840.10008.5.1.4.1.1.4")
    report[start : start + 25] = b"1.2.840.10008.5.1.4.1.1.8"  # a report has no pixels
    (tmp_path / "report").write_bytes(report)
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    assert read_volume(tmp_path)[0].shape[-1] == 2


def test_a_link_that_leads_nowhere_ends_no_series_early(tmp_path: Path, write_series: SeriesWriter) -> None:
    write_series(tmp_path, [0.0, 2.0, 4.0])
    (tmp_path / "1.2.3.1.0015").symlink_to(tmp_path / "nowhere")  # GDCM's own list would lack what stands before it
    with pytest.raises(ValueError, match=r"1\.2\.3\.1\.0015: a link that leads nowhere"):
        read_volume(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no FIFO")
def test_a_fifo_among_the_slices_is_named(tmp_path: Path, write_series: SeriesWriter) -> None:
    write_series(tmp_path, [0.0, 2.0])
    os.mkfifo(tmp_path / "pipe")
    assert not is_dicom(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe: expected a regular file, got a FIFO"):
        read_volume(tmp_path)


@pytest.mark.parametrize(
    ("folder", "spacing"),
    [("dicom_ct_jpeg2000", 2.0), ("dicom_mr_oblique_t1post", 6.5), ("dicom_mr_oblique_flair_same_subject", 6.5)],
)
def test_affine_of_real_series_follows_the_standard(data_dir: Path, folder: str, spacing: float) -> None:
    files = series_files(data_dir / "odd-files" / folder)
    image, affine = read_series(files)

    tags = [_geometry_tags(file) for file in files]  # (n, [position, orientation, pixel spacing])
    index = np.argsort([position @ np.cross(plane[:3], plane[3:]) for position, plane, _ in tags])
    position, plane, pixel = tags[index[0]]
    # DICOM PS3.3, C.7.6.2.1.1: the first direction runs along a row, so it goes with the column spacing.
    expected = np.stack([plane[:3] * pixel[1], plane[3:] * pixel[0]], axis=1)
    assert np.allclose(affine[:3, :2], expected, atol=1e-6)
    assert np.allclose(affine[:3, 3], position, atol=1e-4)
    assert np.allclose(affine[:3, 3] + affine[:3, 2] * (len(files) - 1), tags[index[-1]][0], atol=1e-4)
    assert np.linalg.norm(affine[:3, 2]) == pytest.approx(spacing, abs=1e-4)
    middle = len(files) // 2
    pixels = sitk.GetArrayFromImage(sitk.ReadImage(files[index[middle]]))[0]
    assert np.array_equal(sitk.GetArrayFromImage(image)[middle], pixels)


def _geometry_tags(file: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image = sitk.ReadImage(file)
    position, plane, pixel = (image.GetMetaData(tag).split("\\") for tag in ("0020|0032", "0020|0037", "0028|0030"))
    return np.array(position, float), np.array(plane, float), np.array(pixel, float)
