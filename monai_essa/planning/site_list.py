# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The data list that a plan is made for: the site's own, or one made of the scans in its folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from monai_essa.data import write_datalist
from monai_essa.data.lists.maker import split_cases
from monai_essa.data.pairing.search import find_cases
from monai_essa.data.pairing.studies import LeftOut
from monai_essa.planning.choices import FEW_LABELS

__all__ = ["SiteList", "site_list"]

_WITH_VALIDATION = {"training": 0.8, "validation": 0.2}
_ALL_FOR_TRAINING = {"training": 1.0}


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
