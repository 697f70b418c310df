# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for DICOM series: order, slice spacing from positions, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from monai_essa.data.dicom_series import find_series, is_dicom, read_series, series_files

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
