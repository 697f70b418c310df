# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""One preprocessed item in a safetensors file, uncompressed, so that a memory map reads the voxels asked for only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import SpaceKeys, TraceKeys
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

__all__ = ["pack_item", "unpack_item"]


def pack_item(item: Mapping[str, Any], listed: Mapping[str, Any]) -> bytes:
    """Return the content of the file: tensors as they are, and one JSON text that says how the item is made of them.

    Texts, file names above all, stay out: what equals a value of ``listed`` is taken from there when the file is read,
    other texts of the metadata are dropped. The operations that MONAI's ``Invertd`` undoes are kept, but for the
    identities of the transforms, which are those of one process.

    Args:
        item: tensors with or without metadata, arrays, numbers and values of ``listed``.
        listed: the item of the data list that it was made of.

    Returns:
        The bytes of a safetensors file.

    Raises:
        TypeError: if the item holds anything else.
    """
    tensors: dict[str, torch.Tensor] = {}
    parts = {key: _packed(key, value, listed, tensors) for key, value in item.items()}
    foreign = [key for key, part in parts.items() if part is None]
    if foreign:
        msg = f"a cache on disk keeps tensors and numbers, got {type(item[foreign[0]]).__name__} for {foreign[0]!r}"
        raise TypeError(f"{msg}; drop the key by SelectItemsd, or leave cache_dir out")
    return save(tensors, {"item": json.dumps(parts)})


def unpack_item(path: Path, listed: Mapping[str, Any]) -> dict[str, Any]:
    """Open a file of :func:`pack_item`; voxels are read from the disk when something looks at them.

    Args:
        path: the file.
        listed: as it was given to :func:`pack_item`.

    Returns:
        The item. Writing to its tensors changes the copy in memory, never the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            parts = json.loads(file.metadata()["item"])
        return {key: _unpacked(part, listed, tensors) for key, part in parts.items()}
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{path}: a damaged cache file ({reason}); delete it, and the next run makes it anew"
        ) from error


def _packed(
    name: str, value: Any, listed: Mapping[str, Any], tensors: dict[str, torch.Tensor]
) -> dict[str, Any] | None:
    if isinstance(value, np.ndarray | torch.Tensor):
        # A copy, since safetensors refuses tensors that share memory, as affines do.
        tensors[name] = torch.as_tensor(value).clone(memory_format=torch.contiguous_format)
    if isinstance(value, MetaTensor):
        tensors[name] = tensors[name].as_subclass(torch.Tensor)
        meta = {key: _packed(f"{name}.{key}", held, listed, tensors) for key, held in value.meta.items()}
        operations = _packed_operation(f"{name}.operations", value.applied_operations, tensors)
        kept = {key: part for key, part in meta.items() if part is not None}
        return {"tensor": name, "meta": kept, "operations": operations}
    if isinstance(value, np.ndarray | torch.Tensor):
        return {"array" if isinstance(value, np.ndarray) else "tensor": name}
    if isinstance(value, SpaceKeys):
        return {"value": value.value}
    if isinstance(value, np.number | np.bool_):
        return {"value": value.item()}
    if value is None or isinstance(value, bool | int | float):
        return {"value": value}
    for key, held in listed.items():
        if type(held) is type(value) and held == value:
            return {"listed": key}
        if isinstance(value, str) and value == _first_text(held):
            return {"first": key}
    return None


def _packed_operation(name: str, value: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Pack what MONAI notes of an invertible transform; its texts are names of classes and of interpolation modes."""
    if isinstance(value, Mapping):
        known = {str(key): TraceKeys.NONE if key == TraceKeys.ID else held for key, held in value.items()}
        return {"mapping": {key: _packed_operation(f"{name}.{key}", held, tensors) for key, held in known.items()}}
    if isinstance(value, list | tuple):
        parts = [_packed_operation(f"{name}.{number}", held, tensors) for number, held in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": parts}
    if isinstance(value, str):
        return {"value": str(value)}
    part = _packed(name, value, {}, tensors)
    if part is None:
        raise TypeError(f"a cache on disk cannot keep a {type(value).__name__} of an operation; leave cache_dir out")
    return part


def _unpacked(part: Mapping[str, Any], listed: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
    if "value" in part:
        return part["value"]
    if "listed" in part:
        return listed[part["listed"]]
    if "first" in part:
        return _first_text(listed[part["first"]])
    if "array" in part:
        return tensors[part["array"]].numpy()
    if "mapping" in part:
        return {key: _unpacked(held, listed, tensors) for key, held in part["mapping"].items()}
    for kind in (list, tuple):
        if kind.__name__ in part:
            return kind(_unpacked(held, listed, tensors) for held in part[kind.__name__])
    tensor = tensors[part["tensor"]]
    if "meta" not in part:
        return tensor
    meta = {key: _unpacked(held, listed, tensors) for key, held in part["meta"].items()}
    return MetaTensor(tensor, meta=meta, applied_operations=_unpacked(part["operations"], listed, tensors))


def _first_text(held: Any) -> str:
    """Name the file of an item as ``LoadImage`` does in the metadata: the first of several."""
    return str(held[0] if isinstance(held, list | tuple) and held else held)
