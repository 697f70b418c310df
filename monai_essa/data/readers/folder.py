# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Find the volumes of a folder, and look at what each one holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image

from monai_essa.data.pairing.names import PICTURE_SUFFIXES, VOLUME_SUFFIXES, case_of, series_of
from monai_essa.data.readers.dicom import DicomSeries, find_series, is_dicom
from monai_essa.data.readers.itk import checked_header, ras_affine
from monai_essa.data.readers.nifti import check_data_files, checked_nifti
from monai_essa.data.readers.volume import FileFault, check_regular_file, named_faults
from monai_essa.data.readers.volume_file import PICTURE_FORMATS

__all__ = ["FoundVolume", "VolumeLook", "find_pictures", "find_volumes", "holds_label_ids", "look_at"]

_NIBABEL = (".nii", ".nii.gz", ".mgz", ".mgh")
_PLACES = (0.5, 0.25, 0.75)  # of the slices that are read, until one is not constant
_MOST_VOXELS = 2**26  # of a slice; a header that declares more is damaged
_SMALL = 2**17  # voxels of a volume that is read whole
_ROWS = 128  # of a slice
_FEW_LEVELS = 40  # a scan, even of 8 bits, has more
_MANY_VOXELS = 20_000  # from here on noise with few levels is told from structures
_SAME_NEIGHBOUR = 0.6  # share of neighbours in structures with the same id: 0.8 in 160 brain regions, 0.1 in 8-bit MR
_SAME_IN_SPECKS = 0.3  # the same where there are few levels, so that thin structures count


@dataclass(frozen=True)
class FoundVolume:
    """One volume of a folder tree.

    Attributes:
        path: what a datalist names: a file, a DICOM folder, or one file of a series if a folder holds several.
        name: the same relative to the searched folder, with forward slashes.
        study: equal for the series of one study; for grouping only, never write it down.
        series: what tells this series from others of its study.
        slices: number of files of a DICOM series; otherwise 0.
        patient: the PatientID of a DICOM series, otherwise empty; for grouping only, never write it down.
    """

    path: Path
    name: str
    study: tuple[str, ...]
    series: str
    slices: int = 0
    patient: str = ""


def find_volumes(folder: str | Path) -> tuple[FoundVolume, ...]:
    """Search a folder and its sub-folders; hidden files, files of other kinds, pipes and devices are passed over.

    Args:
        folder: where to search.

    Returns:
        The volumes, sorted by name; or the pictures (PNG, JPEG, TIFF, BMP) if there is no volume: beside volumes they
        are previews.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    return _search(folder, _in_folder) or find_pictures(folder)


def find_pictures(folder: str | Path) -> tuple[FoundVolume, ...]:
    """Search a folder and its sub-folders for pictures, whether or not there are volumes.

    Args:
        folder: where to search.

    Returns:
        The pictures, sorted by name.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    return _search(folder, _pictures)


@dataclass(frozen=True, eq=False)
class VolumeLook:
    """What a short look at a file tells.

    Attributes:
        is_label: whether its voxels are ids; ``None`` if they are all equal or cannot be read.
        shape: spatial shape in voxels; empty if the header cannot be read.
        affine: (4, 4), voxel to RAS millimetres; ``None`` if the header cannot be read.
        channels: the length of a fourth axis or of a voxel's vector, otherwise 1.
    """

    is_label: bool | None = None
    shape: tuple[int, ...] = ()
    affine: np.ndarray | None = None
    channels: int = 1

    def on_grid_of(self, other: VolumeLook) -> bool:
        """Say whether the voxels of two files lie on each other, as far as the headers could be read."""
        if self.affine is None or other.affine is None:
            return True
        voxel = np.linalg.norm(self.affine[:3, :3], axis=0).min()
        return self.shape == other.shape and bool(np.allclose(self.affine, other.affine, rtol=1e-3, atol=0.1 * voxel))


def look_at(path: str | Path, voxels: bool = True) -> VolumeLook:
    """Look at a file: its header and one slice, or a few if that is constant.

    A DICOM series is known by its header only; the look at a file that cannot be read is empty, since the
    data check says what is wrong with it.

    Args:
        path: NIfTI, MGH, NRRD, MetaImage, a picture, or DICOM.
        voxels: whether to look at voxels; otherwise at the header alone.

    Returns:
        What was seen.

    Example:
        >>> look_at("no such file.nii").is_label is None
        True
    """
    file = str(path)
    try:
        with named_faults(file, "an image"):
            check_regular_file(file)
            check_data_files(file)
            if file.lower().endswith(_NIBABEL):
                return _nibabel_look(file, voxels)
            return _picture_look(file, voxels) if file.lower().endswith(PICTURE_SUFFIXES) else _itk_look(file, voxels)
    except FileFault:
        return VolumeLook()


def holds_label_ids(voxels: np.ndarray) -> bool | None:
    """Tell a label map from a scan by voxels of a slice.

    A label map has few levels, or its levels are whole numbers that neighbouring voxels of a structure nearly always
    share. A scan has hundreds of levels, which differ between neighbours.

    Args:
        voxels: (..., width), with neighbours along the last axis.

    Returns:
        Whether they are ids; ``None`` if all are equal, since nothing can be told.

    Example:
        >>> holds_label_ids(np.repeat([[0, 3, 1]], 9, axis=1)), holds_label_ids(np.arange(400.0).reshape(20, 20))
        (True, False)
    """
    if not np.isfinite(voxels).all():
        return False
    levels, counts = np.unique(voxels, return_counts=True)
    if levels.size < 2:
        return None
    same = _same_neighbours(voxels, levels[counts.argmax()])
    if levels.size <= min(_FEW_LEVELS, max(2, voxels.size // 4)):
        return voxels.size < _MANY_VOXELS or levels.size <= 4 or same > _SAME_IN_SPECKS
    return bool(np.all(levels == np.round(levels)) and same > _SAME_NEIGHBOUR)


def _search(
    folder: str | Path, find: Callable[[Path, Path, list[Path]], Iterator[FoundVolume]]
) -> tuple[FoundVolume, ...]:
    root = Path(folder)
    if not root.is_dir():
        msg = f"{root}: no such folder; give the folder that holds the images"
        raise FileNotFoundError(msg)
    found = [
        volume
        for place, _, names in os.walk(root)
        for volume in find(root, Path(place), _regular(Path(place), sorted(names)))
    ]
    return tuple(sorted(found, key=lambda volume: volume.name))


def _regular(place: Path, names: list[str]) -> list[Path]:
    """Leave out hidden files, and pipes and devices, which would block the reader for ever."""
    return [place / name for name in names if not name.startswith(".") and (place / name).is_file()]


def _in_folder(root: Path, place: Path, files: list[Path]) -> Iterator[FoundVolume]:
    images = [path for path in files if path.name.lower().endswith(VOLUME_SUFFIXES) and path.suffix.lower() != ".dcm"]
    yield from (_image(root, path) for path in images)

    others = [path for path in files if path not in images and not path.name.lower().endswith(PICTURE_SUFFIXES)]
    if any(is_dicom(path) for path in others):
        series = find_series(place)
        yield from (_dicom(root, one, place if len(series) == 1 else Path(min(one.files))) for one in series)


def _pictures(root: Path, place: Path, files: list[Path]) -> Iterator[FoundVolume]:
    yield from (_image(root, path) for path in files if path.name.lower().endswith(PICTURE_SUFFIXES))


def _image(root: Path, path: Path) -> FoundVolume:
    name = path.relative_to(root).as_posix()
    series = series_of(name)
    case = case_of(name)
    study = (str(path.parent), case[: len(case) - len(series)].rstrip("._-"))
    return FoundVolume(path, name, study, series)


def _dicom(root: Path, series: DicomSeries, path: Path) -> FoundVolume:
    name = path.relative_to(root).as_posix()
    study = (series.study or str(path),)
    return FoundVolume(path, name, study, path.name, len(series.files), series.patient)


def _same_neighbours(voxels: np.ndarray, background: float) -> float:
    """Return the share of equal pairs among neighbours of which at least one is not background."""
    left, right = voxels[..., :-1], voxels[..., 1:]
    inside = (left != background) | (right != background)
    return float((left == right)[inside].mean()) if inside.any() else 1.0


def _verdict(shape: tuple[int, ...], read: Callable[[int | None], np.ndarray]) -> bool | None:
    """Look at slices until one is not constant, at last at all of them; ``read(None)`` returns the whole volume."""
    if int(np.prod(shape)) <= _SMALL:
        return holds_label_ids(read(None))
    if int(np.prod(shape[:2])) > _MOST_VOXELS:
        return None
    for index in _indices(shape):
        verdict = holds_label_ids(_thinned(read(index)))
        if verdict is not None:
            return verdict
    return holds_label_ids(read(None)) if int(np.prod(shape)) <= 8 * _MOST_VOXELS else None


def _indices(shape: tuple[int, ...]) -> Iterator[int | None]:
    yield from (int(place * shape[2]) for place in _PLACES) if len(shape) > 2 else (None,)


def _thinned(voxels: np.ndarray) -> np.ndarray:
    return voxels[:: max(1, voxels.shape[0] // _ROWS)]


def _nibabel_look(path: str, voxels: bool) -> VolumeLook:
    image = checked_nifti(path)
    shape = tuple(int(size) for size in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    proxy = image.dataobj

    def read(index: int | None) -> np.ndarray:
        if len(shape) > 4 or proxy.dtype.kind not in "iuf":  # vectors of vectors, colours, complex numbers
            raise ValueError("no scan and no label map")
        rest = (0,) * (len(proxy.shape) - 3)
        return np.asarray(
            proxy[(slice(None), slice(None), slice(None) if index is None else index, *rest)[: proxy.ndim]]
        )

    verdict = _verdict(shape[:3], read) if voxels else None
    return VolumeLook(verdict, shape[:3], np.asarray(image.affine), int(np.prod(shape[3:])))


def _itk_look(path: str, voxels: bool) -> VolumeLook:
    if is_dicom(path):
        return VolumeLook()
    reader = checked_header(path)
    size = tuple(int(length) for length in reader.GetSize())
    channels = reader.GetNumberOfComponents() * int(np.prod(size[3:]))

    def read(index: int | None) -> np.ndarray:
        if index is not None:
            reader.SetExtractIndex([0, 0, index, *[0] * (len(size) - 3)])
            reader.SetExtractSize([*size[:2], 0, *[0] * (len(size) - 3)])
        array = sitk.GetArrayFromImage(reader.Execute())
        return array[..., 0] if reader.GetNumberOfComponents() > 1 else array

    verdict = _verdict(size[:3], read) if voxels else None
    return VolumeLook(verdict, size[:3], ras_affine(reader), channels)


def _picture_look(path: str, voxels: bool) -> VolumeLook:
    with Image.open(path, formats=PICTURE_FORMATS) as picture:
        shape, bands = picture.size, len(picture.getbands())
        if not voxels or picture.width * picture.height > _MOST_VOXELS:
            return VolumeLook(None, shape, None, bands)
        array = np.asarray(picture.convert("RGB") if picture.mode not in ("1", "L", "P", "I", "F", "I;16") else picture)
    flat = array if array.ndim == 2 else array @ np.array([1, 256, 65536])  # a colour is one level
    return VolumeLook(holds_label_ids(_thinned(flat)), shape, None, bands)
