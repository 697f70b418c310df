# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Write the folder that MONAI Label calls an app: a main.py and the bundles."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from monai_essa.files import folder_written_whole
from monai_essa.outside import NAME, Text, shown

__all__ = ["make_label_folder"]

_MAIN = '''\
"""The MONAI Label app of monai_essa; `monai-essa label start` serves it."""

from monai_essa.label import EssaLabelApp

__all__ = ["EssaLabelApp"]
'''
# MONAI Label derives a model's task from these words in its folder's name.
_MISLEADING = ("deepedit", "deepgrow", "detection", "classification")


def make_label_folder(folder: Path, bundles: Sequence[Path], link: bool = False) -> Path:
    """Write an app folder; it appears under its name only when complete.

    Args:
        folder: a new folder.
        bundles: segmentation bundles with weights.
        link: whether to link to the bundles instead of copying them; default: copy.

    Returns:
        The folder.

    Raises:
        FileExistsError: if the folder exists.
        FileNotFoundError: if a bundle has no weights or no config that MONAI Label reads.
        ValueError: if a bundle is for another task, or its name suggests one or is not plain.

    Example:
        >>> make_label_folder(Path("spleen_app"), [Path("spleen_ct_segmentation")])  # doctest: +SKIP
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists; expected a new folder: give another or move the old one away")
    for bundle in bundles:
        _check(bundle)
    with folder_written_whole(folder) as partial:
        (partial / "model").mkdir(parents=True)
        (partial / "main.py").write_text(_MAIN, encoding="utf-8")
        for bundle in bundles:
            target = partial / "model" / bundle.resolve().name
            if link:
                target.symlink_to(bundle.resolve(), target_is_directory=True)
            else:
                shutil.copytree(bundle, target, ignore=shutil.ignore_patterns("__pycache__", "runs", "eval"))
    return folder


def _check(bundle: Path) -> None:
    name = Text(NAME, 100).check(bundle.resolve().name, f"the name of {bundle}")  # MONAI writes it into configs
    for part in ("configs/metadata.json", "configs/inference.yaml", "configs/train.yaml", "models/model.pt"):
        if not (bundle / part).is_file():
            raise FileNotFoundError(
                f"{bundle} has no {part}; expected a bundle with weights: "
                "monai-essa bundles copy essa_segmentation --run RUN_FOLDER --name NAME"
            )
    if any(word in name.lower() for word in _MISLEADING):
        raise ValueError(f"{name}: MONAI Label takes such a name for another task; give the bundle's folder another")
    output, task = _output_and_task(bundle / "configs" / "metadata.json")
    if output != "segmentation":
        raise ValueError(f"{name} is for {task}; expected a segmentation bundle")


def _output_and_task(path: Path) -> tuple[str, str]:
    """Read the format of a bundle's first output, and the task that the bundle names."""
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        output = [*metadata["network_data_format"]["outputs"].values()][0]
        return str(output.get("format")), shown(metadata["task"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path}: expected MONAI's metadata of a bundle, with 'task' and network_data_format::outputs, got "
            f"{shown(str(error))}; correct the file"
        ) from error
