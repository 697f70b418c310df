# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Find what is wrong with one volume, with its label map, or with the two together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import nibabel as nib
import numpy as np

from monai_essa.data.lists.fields import mapped_id
from monai_essa.data.readers.volume import SAME_GRID, corner_shift
from monai_essa.data.readers.volume_file import channels_first, open_volumes
from monai_essa.files import short_digest
from monai_essa.outside import printable

__all__ = [
    "Problem",
    "VolumeFacts",
    "image_problems",
    "joined",
    "label_problems",
    "note_problems",
    "pair_problems",
    "volume_facts",
]

_MOST_VALUES = 256  # a label map with more distinct values is an image


def image_problems(file: str, facts: VolumeFacts) -> Iterator[Problem]:
    """Yield what is wrong with an image by itself: NaN, infinite or constant voxels; and doubts about its header.

    Args:
        file: as the datalist names it.
        facts: of the image.

    Yields:
        The problems.
    """
    if facts.broken:
        problem = f"{facts.broken} voxels are NaN or infinite"
        yield Problem("error", file, "image", problem, "repair or leave out the file")
    if facts.minimum == facts.maximum:
        problem = f"every voxel is {facts.minimum:g}"
        yield Problem("error", file, "image", problem, "leave out the file")
    yield from note_problems(file, "image", facts)


def note_problems(file: str, key: str, facts: VolumeFacts) -> Iterator[Problem]:
    """Yield what the reader made of a doubtful header, as a warning each.

    Args:
        file: as the datalist names it.
        key: ``image`` or ``label``.
        facts: of the file.

    Yields:
        The problems.
    """
    for note in facts.notes:
        yield Problem("warning", file, key, note, "look at the scan in a viewer, and repair the header if it is wrong")


def label_problems(
    file: str, facts: VolumeFacts, known: frozenset[int], label_map: Mapping[float, int] = MappingProxyType({})
) -> Iterator[Problem]:
    """Yield what is wrong with a label by itself: values that are not ids, unknown ids, nothing but background.

    Args:
        file: as the datalist names it.
        facts: of the label, with its values.
        known: the ids that the datalist's ``labels`` names; empty if it names none.
        label_map: the ids that voxel values stand for; others within 0.001 of a whole number stand for that.

    Yields:
        The problems.
    """
    yield from note_problems(file, "label", facts)
    values = sorted({mapped_id(value, label_map) for value in facts.values})
    odd = [value for value in values if value != int(value) or value < 0]
    if odd or facts.broken or not values:
        found = repr(odd[0]) if odd else "NaN" if facts.broken else "more than 256 values"
        problem = f"expected ids 0, 1, 2 ..., got {found}"
        yield Problem("error", file, "label", problem, "resample labels with nearest neighbour, or give a label map")
        return
    unknown = sorted({int(value) for value in values} - known)
    if known and unknown:
        problem = f"ids {unknown} are not among the datalist's labels {sorted(known)}"
        advice = (
            f"correct the file or the 'labels' of the datalist, or give a label map such as {unknown[-1]}={max(known)}"
        )
        yield Problem("error", file, "label", problem, advice)
    if values == [0.0]:
        yield Problem("warning", file, "label", "only background", "leave out the file unless the structure is absent")


def pair_problems(file: str, image: VolumeFacts, label: VolumeFacts) -> Iterator[Problem]:
    """Yield how a label does not lie on its image's voxels.

    Args:
        file: the label, as the datalist names it.
        image: facts of the image.
        label: facts of the label.

    Yields:
        The problems.
    """
    if label.channels > 1:
        problem = f"expected one channel, got {label.channels}"
        yield Problem("error", file, "label", problem, "merge the structures into one map of ids")
    shape, own = _plane(image.shape), _plane(label.shape)
    if shape != own:
        problem = f"expected the image's shape {_size(image.shape)}, got {_size(label.shape)}"
        yield Problem("error", file, "label", problem, "resample the label to the image, or pair it with its own")
        return
    if 2 in (len(image.shape), len(label.shape)):  # a picture has no place in the body
        return
    shift = corner_shift(image.shape, image.affine, label.affine)
    if shift > SAME_GRID:
        problem = f"expected the image's affine, got one that moves a corner by {shift:.1f} voxels"
        yield Problem("error", file, "label", problem, "copy the image's affine if the voxels fit, else resample")


@dataclass(frozen=True, eq=False)
class VolumeFacts:
    """One volume, without its voxels.

    Attributes:
        file: the path, or the first of several.
        channels: number of channels.
        shape: spatial shape in voxels.
        spacing: in mm along the array's axes.
        orientation: axis codes such as ``RAS``, the direction in which each axis points.
        affine: (4, 4), voxel to RAS millimetres.
        broken: number of voxels that are NaN or infinite.
        minimum: of the finite voxels.
        maximum: of the finite voxels.
        low: 0.5th percentile of the finite voxels.
        high: 99.5th percentile of the finite voxels.
        values: the distinct values where there are at most 256, for a label; else empty.
        digest: equal for equal voxels, whatever the file's name, header and compression.
        notes: what the reader converted or had to guess, such as a unit or an orientation; one sentence each.
    """

    file: str
    channels: int
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str
    affine: np.ndarray
    broken: int
    minimum: float
    maximum: float
    low: float
    high: float
    values: tuple[float, ...]
    digest: str
    notes: tuple[str, ...] = ()


def volume_facts(path: str | Path | Sequence[str], count_values: bool = False) -> VolumeFacts:
    """Read a volume once and describe it.

    Args:
        path: a file, a DICOM folder, or one path for each channel.
        count_values: list the distinct values; for labels, which are opened as such.

    Returns:
        The facts.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if a file cannot be read as one volume, or is empty.
    """
    name = str(path) if isinstance(path, str | Path) else str(path[0])
    volume = open_volumes(path, label=count_values)
    array, affine = channels_first(volume), volume.affine
    finite = array if array.dtype.kind in "iub" else array[np.isfinite(array)]
    voxels = finite if finite.size else np.zeros(1)
    values = np.unique(voxels) if count_values else np.empty(0)
    low, high = np.percentile(voxels, [0.5, 99.5])
    rank = array.ndim - 1
    return VolumeFacts(
        file=name,
        channels=array.shape[0],
        shape=tuple(array.shape[1:]),
        spacing=tuple(float(size) for size in nib.affines.voxel_sizes(affine)[:rank].round(4)),
        orientation="".join(str(code) for code in nib.aff2axcodes(affine)[:rank]),
        affine=affine,
        broken=array.size - finite.size,
        minimum=float(voxels.min()),
        maximum=float(voxels.max()),
        low=float(low),
        high=float(high),
        values=tuple(values.tolist()) if values.size <= _MOST_VALUES else (),
        digest=short_digest(str(array.shape), np.ascontiguousarray(array.T, dtype=np.float32).data),
        notes=volume.notes,
    )


@dataclass(frozen=True)
class Problem:
    """Something wrong, or worth a look, in a datalist.

    Attributes:
        severity: ``error`` makes training fail or its result wrong; ``warning`` may be meant so.
        file: as the datalist names it, or the datalist itself.
        key: ``image``, ``label``, or the section.
        problem: what was expected and what was found.
        advice: what to do.
        others: further files of which the same is true.
    """

    severity: Literal["error", "warning"]
    file: str
    key: str
    problem: str
    advice: str
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        more = f" and {len(self.others)} more {'file' if len(self.others) == 1 else 'files'}" if self.others else ""
        return printable(f"{self.severity}: {self.file}{more} ({self.key}): {self.problem}; {self.advice}")


def joined(problems: Iterable[Problem]) -> list[Problem]:
    """Join the problems of labels that are the same but for the file: 28 files with one wrong id are one line.

    Args:
        problems: in the order of the files.

    Returns:
        The problems, each at the place of its first file.
    """
    kept: dict[object, Problem] = {}
    for number, problem in enumerate(problems):
        same = (problem.severity, problem.problem, problem.advice) if problem.key == "label" else number
        first = kept.setdefault(same, problem)
        if first is not problem:
            kept[same] = replace(first, others=(*first.others, problem.file))
    return list(kept.values())


def _plane(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a single slice as that of a picture."""
    return shape[:2] if shape[2:] == (1,) else shape


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
