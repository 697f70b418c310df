# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Fingerprints of what makes a run: its configuration, its data, and the files that it starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn

from monai_essa.data.readers.npz import is_npz_name, npz_file
from monai_essa.files import file_sha256, json_sha256
from monai_essa.weights import resolve_pretrained

__all__ = [
    "config_fingerprints",
    "datalist_fingerprint",
    "file_fingerprint",
    "file_fingerprints",
    "setting_fingerprints",
]


def config_fingerprints(config: Mapping[str, Any]) -> dict[str, str]:
    """Digest each entry of a configuration.

    Args:
        config: plain values, dictionaries, lists and dataclasses (the methods are), by name. Leave out what may change
            between two starts of one run, such as folders.

    Returns:
        The first 16 digits of a sha256 for each name; apart, so that a difference can be named.

    Raises:
        TypeError: if an entry holds anything else, such as a network: its text would differ in each process.

    Example:
        >>> from monai_essa.methods import LoRA
        >>> one = config_fingerprints({"lr": 1.0e-3, "method": LoRA(rank=8)})
        >>> two = config_fingerprints({"lr": 1.0e-3, "method": LoRA(rank=4)})
        >>> one["lr"] == two["lr"], one["method"] == two["method"]
        (True, False)
    """
    return {str(name): json_sha256(_canonical(value, str(name)))[:16] for name, value in config.items()}


def setting_fingerprints(settings: Mapping[str, Any]) -> dict[str, str]:
    """Digest the settings of a run, which may be grouped by what they are about.

    Args:
        settings: by name; a mapping is a group of settings by key. The keys of a group and networks by more than their
            class have no part in the digest.

    Returns:
        As :func:`config_fingerprints`, one digest for each group.

    Raises:
        TypeError: as :func:`config_fingerprints`.

    Example:
        >>> one = setting_fingerprints({"images": {"spacing": [1.0, 1.0], "in_channels": 1}})
        >>> one == config_fingerprints({"images": [[1.0, 1.0], 1]})
        True
    """
    return config_fingerprints({name: _without_keys(value) for name, value in settings.items()})


def datalist_fingerprint(sections: Mapping[str, Sequence[Any]]) -> str:
    """Digest the items of a data list, with the sizes of their files.

    Folders are left out, so the digest is the same where the data has been moved to another disk.

    Args:
        sections: items by section, for example ``{"training": [{"image": path}], "validation": [...]}``. A text that is
            no file is an error; a folder counts as the files in it (a DICOM series).

    Returns:
        A sha256.

    Raises:
        FileNotFoundError: if a file is missing.
        TypeError: if an item holds neither a path nor a plain value.
    """
    return json_sha256(_with_sizes(sections, "data list"))


def file_fingerprint(path: str | Path | None) -> str | None:
    """Digest the content of a file that a run starts from, such as its pretrained weights.

    Args:
        path: the file, or ``family:NAME`` for public weights; None, for a run without it, gives None.

    Returns:
        A sha256.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    if path is None:
        return None
    path = resolve_pretrained(path).path
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    return file_sha256(path)


def file_fingerprints(**files: str | Path | None) -> list[str | None]:
    """Digest several files that a run starts from; a list, since MONAI leaves a component out that gives None.

    Args:
        files: by what they are; None for a run without.

    Returns:
        As :func:`file_fingerprint`, in the order of the arguments.

    Raises:
        FileNotFoundError: as :func:`file_fingerprint`.

    Example:
        >>> file_fingerprints(pretrained=None, adapter=None)
        [None, None]
    """
    return [file_fingerprint(path) for path in files.values()]


def _without_keys(group: Any) -> Any:
    if not isinstance(group, Mapping):
        return group
    values = [_plainer(value) for value in group.values()]
    return values[0] if len(values) == 1 else values


def _plainer(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return type(value).__name__ if isinstance(value, nn.Module) else value


def _canonical(value: Any, where: str) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        held = {each.name: getattr(value, each.name) for each in fields(value)}
        return [f"{type(value).__module__}.{type(value).__qualname__}", _canonical(held, where)]
    if isinstance(value, Mapping):
        return {str(name): _canonical(item, f"{where}#{name}") for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item, f"{where}#{number}") for number, item in enumerate(value)]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"config key '{where}' holds a {type(value).__name__}: give plain values or a dataclass")


def _with_sizes(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _with_sizes(item, f"{where}#{name}") for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_sizes(item, f"{where}#{number}") for number, item in enumerate(value)]
    if isinstance(value, (str, Path)):
        return _name_and_size(Path(value), where)
    return _canonical(value, where)


def _name_and_size(path: Path, where: str) -> list[Any]:
    if is_npz_name(path):  # one image of many in a file
        return [path.name, _name_and_size(Path(npz_file(path)), where)[1]]
    if not path.exists():
        raise FileNotFoundError(f"{where} names {path}, which does not exist: correct the data list or its base folder")
    if path.is_dir():
        return [path.name, sorted([file.name, file.stat().st_size] for file in path.rglob("*") if file.is_file())]
    return [path.name, path.stat().st_size]
