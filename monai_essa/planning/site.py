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

__all__ = ["FEW_LABELS", "SiteFacts", "SiteList", "site_facts", "site_list"]

FEW_LABELS = 10  # with fewer, adapt the encoder to all scans before the labels are used
_WITH_VALIDATION = {"training": 0.8, "validation": 0.2}
_ALL_FOR_TRAINING = {"training": 1.0}
_MOST_SCANS = 20  # each is read whole, so a part of a large datalist must do
_UNLABELLED = ("unlabeled", "unlabelled")
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
def site_list(folder: Path, plan: Path) -> Iterator[SiteList]:
    """Take the ``dataset.json`` of a folder, or make a list beside the plan, since the scans may be read-only.

    Args:
        folder: with a ``dataset.json``, or with images in sub-folders.
        plan: the file that the plan will be written to.

    Yields:
        The list. One that was made is deleted if an error leaves the block: without a plan it has no use, and it would
        be in the way of the next attempt.

    Raises:
        FileExistsError: if a list has to be made and its file exists.
        ValueError: if the folder holds no images.
    """
    if (folder / "dataset.json").is_file():
        yield SiteList((folder / "dataset.json").resolve(), ())
        return
    found = find_cases(folder)
    labels = sum(case.label is not None for case in found.cases)
    shares = _WITH_VALIDATION if labels > FEW_LABELS else _ALL_FOR_TRAINING
    datalist, left_out = split_cases(found, folder.resolve().name, shares)
    path = write_datalist(datalist, plan.with_name(f"{plan.stem}_dataset.json"))
    try:
        yield SiteList(path.resolve(), left_out)
    except BaseException:
        path.unlink()
        raise


@dataclass(frozen=True)
class SiteFacts:
    """A datalist and its scans in numbers; axes are R, A, S.

    Attributes:
        datalist: the JSON file.
        sections: whose images self-supervision may use.
        scans: how many images these hold.
        labelled: how many of ``training`` have a label map.
        validation: how many of ``validation`` have.
        read: how many scans the medians come from.
        extent: of the median scan, in mm.
        spacing: of the median scan, in mm.
        channels: of every scan.
        modality: ``ct``, ``mr`` or ``us``.
        modality_reason: what told it.
        classes: the labels' names and ids, from 0 on; empty without label maps.
    """

    datalist: Path
    sections: tuple[str, ...]
    scans: int
    labelled: int
    validation: int
    read: int
    extent: tuple[float, ...]
    spacing: tuple[float, ...]
    channels: int
    modality: str
    modality_reason: str
    classes: Mapping[str, int]


def site_facts(datalist: Path) -> SiteFacts:
    """Read up to 20 scans of a datalist, and its label maps where it does not name their ids.

    Args:
        datalist: a JSON file with ``training``, ``validation`` or ``unlabeled``.

    Returns:
        The facts.

    Raises:
        FileNotFoundError: if the datalist or a file that it names is missing.
        ValueError: if there is no image, the images are 2-D, unreadable or of different channels, or the datalist's
            ``modality``, ``channel_names`` or ``labels`` are not short printable text.
    """
    listed = read_datalist(datalist)
    sections = tuple(name for name in (*_UNLABELLED, "training") if listed.get(name))
    if not sections:
        names = ", ".join(section_names(listed)) or "none"
        raise ValueError(f"{datalist}: expected images in 'training' or 'unlabeled', it has the sections {names}")
    items = load_datalist(datalist, sections, ("image",))
    chosen = items[:: -(-len(items) // _MOST_SCANS)]
    facts = [volume_facts(item["image"]) for item in tqdm(chosen, "reading scans", disable=None)]
    channels = {fact.channels for fact in facts}
    if len(channels) > 1 or any(len(fact.shape) != 3 for fact in facts):
        found = sorted({f"{fact.channels} x {len(fact.shape)}-D" for fact in facts})
        raise ValueError(f"{datalist}: expected 3-D scans of one number of channels, got {', '.join(found)}")
    labelled, validation = (_labelled(listed, name) for name in ("training", "validation"))
    modality, modality_reason = _modality(listed, datalist, facts)
    return SiteFacts(
        datalist=datalist,
        sections=sections,
        scans=len(items),
        labelled=labelled,
        validation=validation,
        read=len(facts),
        extent=_median([in_ras_order(fact.affine, np.multiply(fact.shape, fact.spacing)) for fact in facts]),
        spacing=_median([in_ras_order(fact.affine, fact.spacing) for fact in facts]),
        channels=channels.pop(),
        modality=modality,
        modality_reason=modality_reason,
        classes=_classes(listed, datalist) if labelled else {},
    )


def _labelled(listed: Mapping[str, Any], section: str) -> int:
    items = listed.get(section) or []
    return sum(map(_has_label, items))


def _has_label(item: Any) -> bool:
    """Say whether an item has a label map; a number is a class."""
    return isinstance(item, dict) and isinstance(item.get("label"), str)


def _median(rows: Sequence[np.ndarray]) -> tuple[float, ...]:
    return tuple(float(value) for value in np.median(rows, axis=0).round(4))


def _modality(listed: Mapping[str, Any], datalist: Path, facts: Sequence[VolumeFacts]) -> tuple[str, str]:
    """Take the modality that the datalist names, in the style of the Decathlon or of nnU-Net, else look at the air."""
    text = next(iter(channel_names(listed, str(datalist))), "")
    words = text.lower().replace("-", " ").replace("_", " ").split()
    for modality, names in _NAMES.items():
        if any(word in names for word in words):
            return modality, f"the datalist says {text}"
    darkest = float(np.median([fact.minimum for fact in facts]))
    if darkest <= _AIR:
        return "ct", f"the darkest voxel of the median scan is {darkest:g}, and air is -1000 HU"
    return "mr", f"the darkest voxel of the median scan is {darkest:g}, so this is no CT"


def _classes(listed: Mapping[str, Any], datalist: Path) -> dict[str, int]:
    """Name the ids 0 to the highest: of the datalist's ``labels``, else of the maps."""
    named = class_ids(listed.get("labels"), f"{datalist}, field 'labels'")
    names = {number: name for name, number in named.items()}
    if not names:
        items = [item for section in ("training", "validation") for item in listed.get(section) or []]
        maps = [datalist.parent / item["label"] for item in items if _has_label(item)]
        found = (volume_facts(label, count_values=True).values for label in tqdm(maps, "reading labels", disable=None))
        label_map = check_label_map(listed.get("label_map"), f"{datalist}, field 'label_map'")
        ids = sorted({int(mapped_id(value, label_map)) for values in found for value in values})
        named = class_ids({f"class_{number}": number for number in ids}, f"{datalist}, the label maps")
        names = {number: name for name, number in named.items()}
    names[0] = names.get(0, "background") if names.get(0) != "class_0" else "background"
    return {names.get(number, f"class_{number}"): number for number in range(max(names) + 1)}
