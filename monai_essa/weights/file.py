# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Read weight files as data, never as code, and judge their values."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import safe_open

from monai_essa.anatomy.tensor_names import CONSTANTS
from monai_essa.files import file_sha256
from monai_essa.licence import ORIGIN
from monai_essa.outside import ListOf, Nullable, Number, shown

__all__ = ["GRID", "WeightFile", "read_weight_file", "unlike", "unreadable"]

GRID = ListOf(Number(1, 100_000, whole=True), longest=3, shortest=2)
"""Patches per axis."""
_ADVICE = "re-save the state dict of the network as .safetensors, or by torch.save(network.state_dict(), path)"
_DEEPEST = 50
_MOST_ENTRIES = 200_000
_LONGEST_NAME = 2000


@dataclass(frozen=True)
class WeightFile:
    """The tensors of a weight file and what is known about it.

    Attributes:
        name: file name without its folder.
        sha256: of the whole file, in hexadecimal.
        tensors: on the CPU. Nested dictionaries and lists are flattened, keys joined by dots:
            ``state_dict.module.norm.weight``.
        preprocessing: the JSON value of the safetensors metadata key ``preprocessing``, or None.
        grids: token grids that the file states, by the path of the patch embedding.
        origin: of the base, as the file states it (:data:`monai_essa.licence.ORIGIN`); None if it states none.
        states_origin: whether the file says where it comes from; its origin is None then if that is a site's own.
    """

    name: str
    sha256: str
    tensors: dict[str, torch.Tensor]
    preprocessing: Any = None
    grids: dict[str, tuple[int, ...]] = field(default_factory=dict)
    origin: dict[str, Any] | None = None
    states_origin: bool = False


def read_weight_file(path: str | Path) -> WeightFile:
    """Read a safetensors file, or a file of ``torch.save`` with ``weights_only=True``.

    Args:
        path: the file; its format is recognised by its content.

    Returns:
        The flattened tensors and the checksum. Other values (epoch, optimizer settings) are left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated or holds Python objects besides tensors, two tensors of one name,
            endlessly nested dictionaries, or no tensor.

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
    _refuse_what_is_no_weights(path)
    metadata: Mapping[str, str] = {}
    grids: dict[str, tuple[int, ...]] = {}
    origins: list[dict[str, Any] | None] = []
    if _is_safetensors(path):
        tensors, metadata = _read_safetensors(path)
    else:
        content = _read_torch(path)
        tensors, grids = _flatten(content, path.name)
        origins = list(_stated_origins(content, path.name))
    if "monai_essa" in metadata:
        raise ValueError(
            f"{path.name} is an adapter of monai_essa, not weights; load it with load_adapter(network, path)"
        )
    if not tensors:
        raise ValueError(f"{path.name} holds no tensors; expected a state dict, or a dictionary around one")
    card, origin = _preprocessing(path, metadata), next((each for each in origins if each), None)
    return WeightFile(path.name, file_sha256(path), tensors, card, grids, origin, bool(origins))


def unreadable(tensor: torch.Tensor) -> str | None:
    """Return the reason why a tensor does not hold plain values, or None if it does.

    Example:
        >>> unreadable(torch.ones(2, device="meta"))
        'a meta tensor, which holds no values'
    """
    if tensor.is_meta:
        return "a meta tensor, which holds no values"
    if tensor.is_quantized:
        return "a quantised tensor"
    if tensor.layout != torch.strided:
        return "a sparse tensor"
    if tensor.is_complex():
        return "complex values"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"declares {tensor.numel():,} values and stores fewer"
    return None


def unlike(name: str, tensor: torch.Tensor, own: torch.Tensor) -> str | None:
    """Return the reason why a fitted tensor holds another kind of values than the network's, or None if it does not.

    Floating-point numbers of any precision are one kind. Whole numbers are another, because a quantised weight is
    meaningless without its scale.

    Args:
        name: name of the tensor.
        tensor: from the file, in the shape of the network's tensor.
        own: the network's tensor.

    Example:
        >>> unlike("norm.weight", torch.ones(2, dtype=torch.int8), torch.ones(2))
        'int8 values in the file, float32 in the network'
    """
    said = f"{_name(tensor)} values in the file, {_name(own)} in the network"
    if own.is_floating_point():
        return None if tensor.is_floating_point() else said
    if tensor.is_floating_point() and not torch.equal(tensor.double(), tensor.double().round()):
        return said
    if name.endswith(CONSTANTS) and not torch.equal(tensor.double(), own.cpu().double()):
        return "other values than the network's, whose windows are made otherwise"
    return None


def _refuse_what_is_no_weights(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(512).lstrip().lower()
    for starts, what in (
        ((b"<!doctype", b"<html", b"<?xml"), "a web page"),
        ((b"version https://git-lfs",), "a pointer of Git LFS"),
    ):
        if head.startswith(starts):
            raise ValueError(f"{path.name} is {what}, not a weight file; download the file itself")


def _is_safetensors(path: Path) -> bool:
    """Recognise the length of the header (8 bytes) and the start of a JSON object, which every safetensors file has."""
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], Mapping[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except Exception as error:  # errors of the reader, and of torch about dtypes and sizes
        raise ValueError(
            f"{path.name} is no whole safetensors file ({_line(error)}); copy or download it again"
        ) from error


def _read_torch(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            _refuse_inflating(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"{path.name} holds Python objects besides tensors, or is no weight file, and was refused; {_ADVICE}"
        ) from error
    except Exception as error:  # a damaged pickle raises errors of many classes
        raise ValueError(
            f"{path.name} is truncated or no file of torch.save; copy or download it again, or {_ADVICE}"
        ) from error


def _refuse_inflating(path: Path) -> None:
    """Refuse an archive that unpacks to more bytes than the file has: torch.save does not compress."""
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise ValueError("the archive is compressed")


def _flatten(content: Any, name: str) -> tuple[dict[str, torch.Tensor], dict[str, tuple[int, ...]]]:
    tensors: dict[str, torch.Tensor] = {}
    grids: dict[str, tuple[int, ...]] = {}
    entries = 0
    for path, value in _walk(content, name, "", 0):
        entries += 1 + (len(value) // 100 if isinstance(value, Mapping | list | tuple) else 0)
        if entries > _MOST_ENTRIES:
            raise ValueError(f"{name} holds more than {_MOST_ENTRIES:,} entries; {_ADVICE}")
        if isinstance(value, torch.Tensor) and tensors.setdefault(path, value) is not value:
            raise ValueError(f"{name} holds two tensors that are called {shown(path)}; {_ADVICE}")
        grids.update(_stated_grids(value, path, name))
    return tensors, grids


def _walk(value: Any, name: str, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield the tensors with their names, and the dictionaries and lists around them, which may nest endlessly."""
    if depth > _DEEPEST or len(path) > _LONGEST_NAME:
        raise ValueError(f"{name} holds dictionaries nested without end, or endless names; {_ADVICE}")
    yield path, value
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, item in items:
        if isinstance(item, torch.Tensor | Mapping | list | tuple):
            part = key if isinstance(key, str) else shown(key)
            yield from _walk(item, name, f"{path}.{part}" if path else part, depth + 1)


def _stated_grids(value: Any, path: str, name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Read grids from the metadata of a state dict, in which torch stores the version of each module."""
    metadata = getattr(value, "_metadata", None) if isinstance(value, Mapping) else None
    for module, facts in metadata.items() if isinstance(metadata, Mapping) else ():
        if isinstance(module, str) and isinstance(facts, Mapping) and "grid" in facts:
            grid = GRID.check(facts["grid"], f"{name}: the grid of {shown(module)}")
            yield f"{path}.{module}" if path else module, tuple(grid)


def _stated_origins(content: Any, name: str) -> Iterator[dict[str, Any] | None]:
    """Read what the state dicts of a file say about their base: None is a site's own."""
    for path, value in _walk(content, name, "", 0):
        metadata = getattr(value, "_metadata", None) if isinstance(value, Mapping) else None
        facts = metadata.get("") if isinstance(metadata, Mapping) else None
        if isinstance(facts, Mapping) and "origin" in facts:
            yield Nullable(ORIGIN).check(facts["origin"], f"{name}: the origin of {shown(path or 'its tensors')}")


def _preprocessing(path: Path, metadata: Mapping[str, str]) -> Any:
    text = metadata.get("preprocessing")
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name}: its metadata 'preprocessing' must be JSON, got {shown(text)}") from error


def _line(error: Exception) -> str:
    return shown(str(error)).strip("'\"")


def _name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
