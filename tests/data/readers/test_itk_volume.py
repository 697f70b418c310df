# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the units of NRRD and MetaImage headers, and for voxels that do not lie where a header says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from monai_essa.data.readers.itk import read_itk_volume

VOXELS = np.arange(60, dtype=np.float32)


def nrrd(path: Path, units: str) -> str:
    fields = "NRRD0005\ntype: float\ndimension: 3\nspace: right-anterior-superior\nsizes: 3 4 5\n"
    fields += "space directions: (2,0,0) (0,2,0) (0,0,2)\nspace origin: (8,0,0)\nendian: little\nencoding: raw\n"
    path.write_bytes(f"{fields}{units}\n\n".encode() + VOXELS.tobytes())
    return str(path)


@pytest.mark.parametrize(
    ("units", "scale"),
    [
        ('space units: "um" "um" "um"', 0.001),
        ('space units: "\u00b5m" "\u00b5m" "\u00b5m"', 0.001),
        ('space units: "cm" "cm" "cm"', 10.0),
        ('space units: "m" "m" "m"', 1000.0),
        ('space units: "mm" "mm" "mm"', 1.0),
        ('space units: "" "" ""', 1.0),
        ("content: no unit", 1.0),
    ],
)
def test_an_nrrd_is_in_millimetres_whatever_its_unit(units: str, scale: float, tmp_path: Path) -> None:
    volume = read_itk_volume(nrrd(tmp_path / "a.nrrd", units))
    assert np.allclose(volume.affine[:3], scale * np.array([[2, 0, 0, 8], [0, 2, 0, 0], [0, 0, 2, 0]]))
    assert bool(volume.notes) is (scale != 1)


def test_the_unit_of_time_is_no_unit_of_length(tmp_path: Path) -> None:
    fields = 'NRRD0005\ntype: float\ndimension: 4\nsizes: 3 4 5 1\nspacings: 2 2 2 1\nunits: "um" "um" "um" "s"\n'
    (tmp_path / "a.nrrd").write_bytes(f"{fields}endian: little\nencoding: raw\n\n".encode() + VOXELS.tobytes())
    assert abs(read_itk_volume(str(tmp_path / "a.nrrd")).affine[0, 0]) == pytest.approx(0.002)


def test_an_unknown_unit_is_said(tmp_path: Path) -> None:
    volume = read_itk_volume(nrrd(tmp_path / "a.nrrd", 'space units: "ell" "ell" "ell"'))
    assert volume.affine[0, 0] == 2
    assert volume.notes == ("the header's unit 'ell' is unknown: millimetres are taken",)


def test_the_distance_unit_of_a_metaimage_counts(tmp_path: Path) -> None:
    fields = "ObjectType = Image\nNDims = 3\nBinaryData = True\nDistanceUnits = um\nDimSize = 3 4 5\n"
    fields += "ElementSpacing = 500 500 500\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
    (tmp_path / "a.mha").write_bytes(fields.encode() + VOXELS.tobytes())
    volume = read_itk_volume(str(tmp_path / "a.mha"))
    assert np.allclose(np.abs(np.diag(volume.affine)), [0.5, 0.5, 0.5, 1])
    assert np.array_equal(volume.array.ravel(order="F"), VOXELS)


def test_a_detached_header_may_declare_what_the_file_beside_it_holds(tmp_path: Path) -> None:
    fields = "ObjectType = Image\nNDims = 3\nCompressedData = False\nDimSize = {}\nElementType = MET_FLOAT\n"
    (tmp_path / "a.raw").write_bytes(VOXELS.tobytes())
    (tmp_path / "a.mhd").write_text(fields.format("3 4 5") + "ElementDataFile = a.raw\n", encoding="utf-8")
    assert np.array_equal(read_itk_volume(str(tmp_path / "a.mhd")).array.ravel(order="F"), VOXELS)
    (tmp_path / "a.mhd").write_text(fields.format("300 400 500") + "ElementDataFile = a.raw\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.mhd: the header declares 300 x 400 x 500 x 1 voxels"):
        read_itk_volume(str(tmp_path / "a.mhd"))


@pytest.mark.parametrize("line", ["NDims = -1", "NDims = 99999999", "NDims : -1", "NDims = 3\nNDims = -1", "NDims = 0"])
def test_a_number_of_dimensions_that_would_end_the_process_is_refused(line: str, tmp_path: Path) -> None:
    fields = f"ObjectType = Image\n{line}\nDimSize = 3 4 5\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
    (tmp_path / "a.mha").write_bytes(fields.encode() + VOXELS.tobytes())
    with pytest.raises(ValueError, match="a.mha: expected NDims from 1 to 10, got") as caught:
        read_itk_volume(str(tmp_path / "a.mha"))
    assert str(caught.value).isprintable()
