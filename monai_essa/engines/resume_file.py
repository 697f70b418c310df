# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The files that a run resumes from: written whole, checked when read, the last two kept."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_essa.engines.atomic_write import sync_and_rename

__all__ = ["delete_resume_files", "has_resume_files", "read_resume_file", "write_resume_file"]

logger = logging.getLogger(__name__)

_NAME = re.compile(r"resume_(\d+)-([0-9a-f]{16})\.pt")


def write_resume_file(folder: Path, iteration: int, content: Mapping[str, Any]) -> Path:
    """Write the state of a run after an iteration, then delete all but this file and the one before.

    The name carries the iteration and the first 16 digits of the file's sha256, so that a name and a file are one
    thing on the disk and cannot disagree after a crash.

    Args:
        folder: where the files are; made if missing.
        iteration: number of iterations done.
        content: tensors and plain values (text, numbers, None) in dictionaries, lists and tuples.

    Returns:
        The new file.

    Raises:
        TypeError: if the content holds anything else: it could not be read back without running code.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "resume.partial"
    torch.save(_plain(content, "state"), temporary)
    path = folder / f"resume_{iteration:09d}-{_sha256(temporary)[:16]}.pt"
    sync_and_rename(temporary, path)

    # A file of a later iteration is one that could not be read: this run would have gone on from it.
    before = [file for file in _files(folder) if _iteration(file) < iteration]
    for file in set(_files(folder)) - {path, *before[-1:]}:
        file.unlink()
    return path


def read_resume_file(folder: Path) -> dict[str, Any] | None:
    """Read the newest undamaged file.

    Args:
        folder: where the files are.

    Returns:
        Its content with all tensors on the CPU, or None if there is no file.

    Raises:
        ValueError: if there are files and each one is damaged.
    """
    files = _files(folder)
    for file in reversed(files):
        if _sha256(file).startswith(_NAME.fullmatch(file.name)[2]):  # type: ignore[index]
            return torch.load(file, map_location="cpu", weights_only=True)
        logger.warning("%s is damaged (its sha256 is not the one in its name): trying the one before", file)
    if files:
        raise ValueError(
            f"all resume files in {folder} are damaged ({', '.join(file.name for file in files)}): "
            "delete the folder to start the run again"
        )
    return None


def delete_resume_files(folder: Path) -> None:
    """Delete what a run wrote into a folder to resume from, and the folder if nothing else is in it."""
    for file in [*_files(folder), *folder.glob("resume.partial")]:
        file.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def has_resume_files(folder: Path) -> bool:
    """Say whether a run has written such files in a folder or below it."""
    return any(_NAME.fullmatch(file.name) for file in folder.rglob("resume_*.pt"))


def _files(folder: Path) -> list[Path]:
    return sorted((file for file in folder.glob("resume_*.pt") if _NAME.fullmatch(file.name)), key=_iteration)


def _iteration(file: Path) -> int:
    return int(_NAME.fullmatch(file.name)[1])  # type: ignore[index]


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        return {_plain(name, where): _plain(item, f"{where}.{name}") for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item, f"{where}.{number}") for number, item in enumerate(value))
    if isinstance(value, np.generic):
        return value.item()
    # Exact types: a subclass, such as an enumeration, would be stored with the name of its class.
    if value is None or type(value) in (bool, int, float, str, torch.Tensor, torch.nn.Parameter):
        return value
    raise TypeError(
        f"{where} is a {type(value).__name__}: a resume file keeps tensors and plain values only, "
        "so give its owner a state_dict() of those"
    )
