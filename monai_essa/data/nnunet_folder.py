# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Lists the cases of an nnU-Net folder, whose dataset.json names no files: they lie in imagesTr, labelsTr, imagesTs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_essa.outside import shown

__all__ = ["is_nnunet_datalist", "nnunet_sections"]

_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


def is_nnunet_datalist(datalist: Mapping[str, Any]) -> bool:
    """Say whether a dataset.json is nnU-Net's: it has the ending of the files, and lists of them under no name."""
    lists = [value for value in datalist.values() if isinstance(value, list)]
    return "file_ending" in datalist and "channel_names" in datalist and not any(_holds_items(value) for value in lists)


def nnunet_sections(datalist: Mapping[str, Any], folder: Path, path: str) -> dict[str, list[dict[str, Any]]]:
    """List the cases by section: ``training`` with labels, and ``testing`` where there is an imagesTs.

    Args:
        datalist: the content of dataset.json.
        folder: where imagesTr and labelsTr lie.
        path: of dataset.json, for the error line.

    Returns:
        Items with paths relative to the folder; an image of several channels is a list of files.

    Raises:
        ValueError: if imagesTr holds no case, or a case lacks a channel or its label.
    """
    channels = len(datalist["channel_names"])
    ending = datalist["file_ending"]
    training = _cases(folder / "imagesTr", ending, channels, path)
    if not training:
        raise ValueError(f"{path}: expected images such as imagesTr/CASE_0000{ending} beside it, found none")
    without = [case for case in training if not (folder / "labelsTr" / f"{case}{ending}").is_file()]
    if without:
        raise ValueError(f"{path}: labelsTr/{without[0]}{ending} is missing; add it, or take its image away")
    items = [{"image": files, "label": f"labelsTr/{case}{ending}"} for case, files in training.items()]
    testing = [{"image": files} for files in _cases(folder / "imagesTs", ending, channels, path).values()]
    return {"training": items} | ({"testing": testing} if testing else {})


def _cases(folder: Path, ending: str, channels: int, path: str) -> dict[str, str | list[str]]:
    found: dict[str, dict[int, str]] = defaultdict(dict)
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _CHANNEL.match(file.name.removesuffix(ending))
        if match and file.name.endswith(ending) and not file.name.startswith("."):
            found[match["case"]][int(match["channel"])] = f"{folder.name}/{file.name}"
    for case, files in found.items():
        if sorted(files) != list(range(channels)):
            raise ValueError(
                f"{path}: expected the {channels} channels of channel_names for {shown(case)} in {folder.name}, "
                f"got {sorted(files)}; add or remove files"
            )
    return {case: _image([files[number] for number in range(channels)]) for case, files in sorted(found.items())}


def _image(files: list[str]) -> str | list[str]:
    return files if len(files) > 1 else files[0]


def _holds_items(value: list[Any]) -> bool:
    return any(isinstance(entry, Mapping) and "image" in entry for entry in value)
