# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The site that a plan is made for: its data list, and what is known of its scans.

The list is the site's own, or one made of the scans in its folder. The facts say how many scans there are, how large
and how fine they are, and which modality and labels they have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from monai_essa.data import write_datalist
from monai_essa.data.check.volumes import VolumeFacts, volume_facts
from monai_essa.data.lists.fields import channel_names, check_label_map, class_ids, mapped_id
from monai_essa.data.lists.maker import split_cases
from monai_essa.data.lists.read import load_datalist, read_datalist, section_names
from monai_essa.data.pairing.search import find_cases
from monai_essa.data.pairing.studies import LeftOut
from monai_essa.data.readers.volume import in_ras_order
from monai_essa.outside import Number

__all__ = [
    "FEW_LABELS",
    "ImageFacts",
    "SiteFacts",
    "SiteList",
    "filled_classes",
    "image_facts",
    "map_classes",
    "map_ids",
    "number_classes",
    "site_facts",
    "site_list",
]

FEW_LABELS = 10  # with fewer, adapt the encoder to all scans before the labels are used
_LISTS = ("dataset.json", "datalist.json")
_WITH_VALIDATION = {"training": 0.8, "validation": 0.2}
_ALL_FOR_TRAINING = {"training": 1.0}
_MOST_SCANS = 20  # each is read whole, so a part of a large datalist must do
_UNLABELLED = ("unlabeled", "unlabelled")
_CLASS = Number(0, 1000, whole=True)
_AIR = -200.0  # an intensity that only CT has: -1000 HU outside the body, -175 within
_NAMES = {"ct": ("ct", "hounsfield"), "us": ("us", "ultrasound"), "mr": ("mr", "mri", "t1", "t2", "flair", "pd", "adc")}


@dataclass(frozen=True)
class SiteList:
    """A data list for a plan.

    Attributes:
        path: absolute path of the JSON file.
        left_out: the files that were found but not listed, with reasons.
    """

    path: Path
    left_out: Sequence[LeftOut]


@contextmanager
def site_list(scans: Path, plan: Path, labels: Path | None = None) -> Iterator[SiteList]:
    """Take the list of a site, or make one beside the plan, since the scans may be read-only.

    Args:
        scans: a data list (JSON, or NPZ as of MedMNIST); or a folder with a ``dataset.json`` or ``datalist.json``, or
            with images in sub-folders.
        plan: the file that the plan will be written to.
        labels: a folder of label maps, from which a list is made whatever lists the folder holds.

    Yields:
        The list. One that was made is deleted if an error leaves the block: without a plan it has no use, and it would
        be in the way of the next attempt.

    Raises:
        FileExistsError: if a list has to be made and its file exists.
        ValueError: if the folder holds no images, or labels are given beside a list.
    """
    if scans.is_file() and labels is not None:
        raise ValueError(f"--labels is for a folder of scans; {scans} has its labels in it")
    there = [scans] if scans.is_file() else [scans / name for name in _LISTS if (scans / name).is_file()]
    if there and labels is None:
        yield SiteList(there[0].resolve(), ())
        return
    found = find_cases(scans, labels)
    labelled = sum(case.label is not None for case in found.cases)
    shares = _WITH_VALIDATION if labelled > FEW_LABELS else _ALL_FOR_TRAINING
    datalist, left_out = split_cases(found, scans.resolve().name, shares)
    path = write_datalist(datalist, plan.with_name(f"{plan.stem}_dataset.json"))
    try:
        yield SiteList(path.resolve(), left_out)
    except BaseException:
        path.unlink()
        raise


@dataclass(frozen=True)
class ImageFacts:
    """Scans in numbers; axes are R, A, S, or columns and rows of a 2-D image.

    Attributes:
        read: how many scans the medians come from.
        extent: of the median scan, in mm; in pixels in 2-D.
        spacing: of the median scan, in mm; 1 in 2-D.
        channels: of every scan.
        modality: ``ct``, ``mr`` or ``us``.
        modality_reason: what told it.
    """

    read: int
    extent: tuple[float, ...]
    spacing: tuple[float, ...]
    channels: int
    modality: str
    modality_reason: str

    @property
    def spatial_dims(self) -> int:
        """Return 2 or 3."""
        return len(self.extent)


@dataclass(frozen=True)
class SiteFacts(ImageFacts):
    """A datalist and its scans in numbers.

    Attributes:
        datalist: the JSON file.
        sections: whose images self-supervision may use.
        scans: how many images these hold.
        labelled: how many of ``training`` have a label.
        validation: how many of ``validation`` have.
        classes: the labels' names and ids, from 0 on; empty without labels.
        by_voxel: whether labels are label maps, not classes of whole images.
    """

    datalist: Path
    sections: tuple[str, ...]
    scans: int
    labelled: int
    validation: int
    classes: Mapping[str, int]
    by_voxel: bool = True


def site_facts(datalist: Path) -> SiteFacts:
    """Read up to 20 scans of a datalist, and its label maps where it does not name their ids.

    Args:
        datalist: a JSON file with ``training``, ``validation`` or ``unlabeled``, or an NPZ file as of MedMNIST.

    Returns:
        The facts.

    Raises:
        FileNotFoundError: if the datalist or a file that it names is missing.
        ValueError: if there is no image, the images are unreadable or of different channels or dimensions, or the
            datalist's ``modality``, ``channel_names`` or ``labels`` are not short printable text.
    """
    listed = read_datalist(datalist)
    sections = tuple(name for name in (*_UNLABELLED, "training") if listed.get(name))
    if not sections:
        names = ", ".join(section_names(listed)) or "none"
        raise ValueError(f"{datalist}: expected images in 'training' or 'unlabeled', it has the sections {names}")
    items = load_datalist(datalist, sections, ("image",))
    facts = image_facts([item["image"] for item in items], channel_names(listed, str(datalist)), str(datalist))
    labels = {name: _labels(listed, name) for name in ("training", "validation")}
    by_voxel = not any(label is not None and not isinstance(label, str) for held in labels.values() for label in held)
    maps = [str(datalist.parent / label) for held in labels.values() for label in held if isinstance(label, str)]
    return SiteFacts(
        **vars(facts),
        datalist=datalist,
        sections=sections,
        scans=len(items),
        labelled=len(labels["training"]),
        validation=len(labels["validation"]),
        classes=_classes(listed, datalist, maps, [label for held in labels.values() for label in held]),
        by_voxel=by_voxel,
    )


def image_facts(images: Sequence[Any], named: Sequence[str], where: str) -> ImageFacts:
    """Read up to 20 scans, spread over all.

    Args:
        images: paths, or lists of paths for channels.
        named: what the datalist calls the channels.
        where: the datalist or folder, for an error line.

    Returns:
        The facts. Volumes of a single slice are 2-D.

    Raises:
        ValueError: if a scan is unreadable, or the scans differ in channels or dimensions.
    """
    chosen = images[:: -(-len(images) // _MOST_SCANS)]
    facts = [volume_facts(image) for image in tqdm(chosen, "reading scans", disable=None)]
    channels = {fact.channels for fact in facts}
    ranks = {2 if len(fact.shape) == 2 or fact.shape[2] == 1 else 3 for fact in facts}
    if len(channels) > 1 or len(ranks) > 1:
        found = sorted({f"{fact.channels} x {fact.shape}" for fact in facts})
        raise ValueError(
            f"{where}: expected scans of one number of channels, all 2-D or all 3-D, got {', '.join(found[:3])}"
        )
    flat = ranks == {2}
    modality, reason = _modality(named, facts)
    return ImageFacts(
        read=len(facts),
        extent=_median([_extent(fact, flat) for fact in facts]),
        spacing=(1.0, 1.0) if flat else _median([in_ras_order(fact.affine, fact.spacing) for fact in facts]),
        channels=channels.pop(),
        modality=modality,
        modality_reason=reason,
    )


def map_classes(maps: Sequence[str], label_map: Mapping[float, int], where: str) -> dict[str, int]:
    """Name the ids that occur in label maps: ``background``, ``class_1`` and so on.

    Args:
        maps: the files.
        label_map: ids that voxel values stand for.
        where: for an error line.

    Returns:
        Every id from 0 to the highest by its name.

    Raises:
        ValueError: if a map has no ids, or too high ones.
    """
    ids = map_ids(maps, label_map)
    return filled_classes(class_ids({f"class_{number}": number for number in ids}, f"{where}, the label maps"))


def map_ids(maps: Sequence[str], label_map: Mapping[float, int]) -> list[int]:
    """Return the ids that occur in label maps, in order.

    Args:
        maps: the files.
        label_map: ids that voxel values stand for.

    Raises:
        ValueError: if a map has no ids.
    """
    found = (volume_facts(label, count_values=True).values for label in tqdm(maps, "reading labels", disable=None))
    return sorted({int(mapped_id(value, label_map)) for values in found for value in values})


def filled_classes(named: Mapping[str, int]) -> dict[str, int]:
    """Return names for every id from 0 to the highest, the first of them the background.

    Example:
        >>> filled_classes({"liver": 2})
        {'background': 0, 'class_1': 1, 'liver': 2}
    """
    names = {number: name for name, number in named.items()}
    names[0] = names.get(0, "background") if names.get(0) != "class_0" else "background"
    return {names.get(number, f"class_{number}"): number for number in range(max(names) + 1)}


def _labels(listed: Mapping[str, Any], section: str) -> list[Any]:
    items = listed.get(section) or []
    return [item["label"] for item in items if isinstance(item, dict) and item.get("label") is not None]


def _extent(fact: VolumeFacts, flat: bool) -> np.ndarray:
    if flat:
        return np.array(fact.shape[:2])
    return in_ras_order(fact.affine, np.multiply(fact.shape, fact.spacing))


def _median(rows: Sequence[np.ndarray]) -> tuple[float, ...]:
    return tuple(float(value) for value in np.median(rows, axis=0).round(4))


def _modality(named: Sequence[str], facts: Sequence[VolumeFacts]) -> tuple[str, str]:
    """Take the modality that the datalist names, in the style of the Decathlon or of nnU-Net, else look at the air."""
    text = next(iter(named), "")
    words = text.lower().replace("-", " ").replace("_", " ").split()
    for modality, names in _NAMES.items():
        if any(word in names for word in words):
            return modality, f"the datalist says {text}"
    darkest = float(np.median([fact.minimum for fact in facts]))
    if darkest <= _AIR:
        return "ct", f"the darkest voxel of the median scan is {darkest:g}, and air is -1000 HU"
    return "mr", f"the darkest voxel of the median scan is {darkest:g}, so this is no CT"


def _classes(listed: Mapping[str, Any], datalist: Path, maps: Sequence[str], labels: Sequence[Any]) -> dict[str, int]:
    """Name the ids 0 to the highest: of the datalist's ``labels``, else of the maps or of the images' classes."""
    named = class_ids(listed.get("labels"), f"{datalist}, field 'labels'")
    if not labels:
        return {}
    if not maps:
        return named or number_classes(labels, str(datalist))
    if named:
        return filled_classes(named)
    return map_classes(maps, check_label_map(listed.get("label_map"), f"{datalist}, field 'label_map'"), str(datalist))


def number_classes(labels: Sequence[Any], where: str) -> dict[str, int]:
    """Name the classes of whole images, which are numbers from 0 on, or lists with 0 or 1 for each class.

    Args:
        labels: of the images.
        where: for an error line.

    Returns:
        At least two classes.

    Raises:
        ValueError: if a label is neither.

    Example:
        >>> number_classes([0, 2, 1], "dataset.json")
        {'class_0': 0, 'class_1': 1, 'class_2': 2}
    """
    lists = [label for label in labels if isinstance(label, list | tuple)]
    if lists and (len(lists) < len(labels) or len({len(label) for label in lists}) > 1):
        raise ValueError(f"{where}: expected the class of each image, or a list as long for each, got both or several")
    numbers = [] if lists else [_CLASS.check(label, f"{where}, a label") for label in labels]
    count = len(lists[0]) if lists else max(int(number) for number in numbers) + 1
    return {f"class_{number}": number for number in range(max(2, count))}
