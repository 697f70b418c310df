# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Read the tensors of a weight file; a file is data and never runs code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

__all__ = ["WeightFile", "read_weight_file"]

_ADVICE = "re-save the state dict of the network as .safetensors, or by torch.save(network.state_dict(), path)"


@dataclass(frozen=True)
class WeightFile:
    """The tensors of a file and what is known about it.

    Attributes:
        name: file name without its folder.
        sha256: of the whole file, in hexadecimal.
        tensors: on the CPU. Nested dictionaries are flattened, keys joined by dots: ``state_dict.module.norm.weight``.
        preprocessing: the JSON value of the safetensors metadata key ``preprocessing``, or None.
    """

    name: str
    sha256: str
    tensors: dict[str, torch.Tensor]
    preprocessing: Any = None


def read_weight_file(path: str | Path) -> WeightFile:
    """Read a safetensors file, or a file of ``torch.save`` with ``weights_only=True``.

    Args:
        path: the file; its content, not its suffix, tells the format.

    Returns:
        The tensors, flattened, and the checksum. Values that are no tensors (epoch, optimizer settings) are left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated, holds Python objects besides tensors, or holds no tensor at all.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "weights.pt"
        >>> torch.save({"state_dict": {"module.norm.weight": torch.ones(4)}, "epoch": 3}, path)
        >>> list(read_weight_file(path).tensors)
        ['state_dict.module.norm.weight']
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weight file; check the path")
    metadata: Mapping[str, str] = {}
    if _is_safetensors(path):
        tensors, metadata = _read_safetensors(path)
    else:
        tensors = dict(_flatten(_read_torch(path), ""))
    if "monai_essa" in metadata:
        raise ValueError(
            f"{path.name} is an adapter of monai_essa, not weights; load it with load_adapter(network, path)"
        )
    if not tensors:
        raise ValueError(f"{path.name} holds no tensors; expected a state dict, or a dictionary around one")
    return WeightFile(path.name, _sha256(path), tensors, _preprocessing(path, metadata))


def _is_safetensors(path: Path) -> bool:
    """A safetensors file starts with the length of its header (8 bytes), then the header: a JSON object."""
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], Mapping[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path.name} is no whole safetensors file ({error}); copy or download it again") from error


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"{path.name} holds Python objects besides tensors, or is no weight file, and was refused; {_ADVICE}"
        ) from error
    except (RuntimeError, EOFError, LookupError, ValueError) as error:
        raise ValueError(
            f"{path.name} is truncated or no file of torch.save; copy or download it again, or {_ADVICE}"
        ) from error


def _flatten(value: Any, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield prefix, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(item, f"{prefix}.{key}" if prefix else str(key))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _preprocessing(path: Path, metadata: Mapping[str, str]) -> Any:
    text = metadata.get("preprocessing")
    try:
        return None if text is None else json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name}: its metadata 'preprocessing' must be JSON, got {text!r}") from error
