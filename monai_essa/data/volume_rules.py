# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What one image, and one image with its label, must be like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from monai_essa.data.data_problem import Problem
from monai_essa.data.label_map import mapped_id
from monai_essa.data.volume_facts import VolumeFacts
from monai_essa.data.volume_meta import SAME_GRID, corner_shift

__all__ = ["image_problems", "label_problems", "note_problems", "pair_problems"]


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
    """Yield what is wrong with a label by itself: values that are no ids, unknown ids, nothing but background.

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
    if image.shape != label.shape:
        problem = f"expected the image's shape {_size(image.shape)}, got {_size(label.shape)}"
        yield Problem("error", file, "label", problem, "resample the label to the image, or pair it with its own")
        return
    shift = corner_shift(image.shape, image.affine, label.affine)
    if shift > SAME_GRID:
        problem = f"expected the image's affine, got one that moves a corner by {shift:.1f} voxels"
        yield Problem("error", file, "label", problem, "copy the image's affine if the voxels fit, else resample")


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
