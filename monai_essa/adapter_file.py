# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Adapter files: the tensors that may differ from the pretrained network, and what is needed to trust them.

A safetensors file. Tensors of the encoder are named relative to it (``encoder:blocks.0.attn.out_proj.weight``), so that
an adapter moves from a ViT to a UNETR; others keep their full name (``network:out.conv.conv.bias``). One metadata
entry, ``monai_essa``, holds JSON: format version, methods and their values, also_train, network class, versions, the
preprocessing card and a sha256 of each encoder tensor that the file does not hold.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai
import torch
import torch.nn as nn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from monai_essa import methods as library
from monai_essa.adaptation import adapt, adaptation_of
from monai_essa.adapter_base import base_fingerprint, check_same_base, check_same_claims, file_name, network_name
from monai_essa.methods.method import AdaptationMethod
from monai_essa.version import __version__

__all__ = ["AdapterFile", "load_adapter", "read_adapter", "save_adapter"]

FORMAT_VERSION = 1
_KEY = "monai_essa"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdapterFile:
    """The content of an adapter file: tensors by file name (``encoder:...``, ``network:...``) and the JSON record."""

    path: Path
    tensors: dict[str, torch.Tensor]
    record: dict[str, Any]

    def methods(self, classes: Sequence[type] = ()) -> tuple[AdaptationMethod, ...]:
        """Rebuild the methods: those of :mod:`monai_essa.methods`, or of the classes given. No name is imported.

        Raises:
            ValueError: if a method is neither of the library nor among ``classes``.
        """
        known = {kind.__name__: kind for kind in (*_library_methods(), *classes)}
        for name in (entry["name"] for entry in self.record["methods"]):
            if name not in known:
                raise ValueError(
                    f"{self.path}: method '{name}' is unknown; pass its class as load_adapter(methods=[...])"
                )
        return tuple(known[entry["name"]](**entry["values"]) for entry in self.record["methods"])


def save_adapter(network: nn.Module, path: str | Path, preprocessing: Mapping[str, Any] | None = None) -> Path:
    """Write every tensor that may differ from the pretrained network, and the record that guards it.

    The file is written under a temporary name, synced, then renamed: a reader sees the old file or the whole new one.

    Args:
        network: an adapted network.
        path: where to write; ``.safetensors`` by custom.
        preprocessing: the card: spacing (mm), axcodes, intensity, label names. JSON values.

    Returns:
        The path.

    Raises:
        ValueError: if the network is not adapted.
    """
    record = adaptation_of(network)
    state = network.state_dict()
    tensors = {
        file_name(network, name): state[name].detach().to("cpu", copy=True).contiguous() for name in record.changing
    }
    content = {
        "format_version": FORMAT_VERSION,
        "methods": [_method_entry(method) for method in record.methods],
        "method_tensors": sorted(file_name(network, name) for name in record.method_tensors),
        "claims": sorted({file_name(network, name) for name in record.claims}),
        "also_train": list(record.also_train),
        "network": type(network).__name__,
        "versions": {"torch": torch.__version__, "monai": monai.__version__, "monai_essa": __version__},
        "preprocessing": dict(preprocessing or {}),
        "fingerprint": base_fingerprint(network, record.changing),
    }
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    with open(temporary, "wb") as file:
        file.write(save(tensors, metadata={_KEY: json.dumps(content)}))
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return path


def read_adapter(path: str | Path) -> AdapterFile:
    """Read an adapter file without touching a network.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, not an adapter, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no adapter file at {path}; a finished stage writes adapter.safetensors into its run folder"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged or no safetensors file ({error}); copy it again or save it anew"
        ) from error
    if _KEY not in metadata:
        raise ValueError(
            f"{path} is a safetensors file but no adapter of monai_essa; load whole networks by load_weights()"
        )
    record = json.loads(metadata[_KEY])
    if record["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{path} has adapter format {record['format_version']}, this version reads {FORMAT_VERSION}; upgrade"
        )
    return AdapterFile(path, tensors, record)


def load_adapter(
    network: nn.Module,
    path: str | Path,
    part: str = "all",
    also_train: Sequence[str] | None = None,
    methods: Sequence[type] = (),
) -> nn.Module:
    """Put an adapter file onto its base: adapt a fresh base by the file's own methods, or swap on an adapted network.

    Args:
        network: the base network with its pretrained weights, or one that is adapted by the same methods.
        path: a file of :func:`save_adapter`, of this network's class or of one with the same encoder.
        part: ``"all"``, or ``"method"`` for the methods' tensors alone (stages hand over so: the next one trains its
            own decoder and head); what was left is logged.
        also_train: on a fresh base, what trains beside the methods from here on; default: with ``part="all"`` what the
            file says, with ``part="method"`` nothing.
        methods: classes of methods that are not the library's own.

    Returns:
        The same network object, adapted, holding the file's values.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, was made on another base or with other methods, or its tensors do not fit.
    """
    if part not in ("all", "method"):
        raise ValueError(f"part must be 'all' or 'method', got {part!r}")
    file = read_adapter(path)
    wanted = set(file.record["method_tensors"]) if part == "method" else set(file.tensors)
    chosen = file.methods(methods)
    check_same_base(network, file.record, file.path)
    if hasattr(network, "_monai_essa_adaptation"):
        _check_same_methods(network, file)
    else:
        check_same_claims(network, file.record, file.path, chosen)
        default = file.record["also_train"] if part == "all" else ()
        adapt(network, chosen, default if also_train is None else also_train)
    _copy_in(network, file, wanted)
    left = sorted(set(file.tensors) - wanted)
    if left:
        _logger.info("%s: left %d tensors that are no method's: %s", path, len(left), ", ".join(left))
    return network


def _library_methods() -> list[type]:
    named: Iterator[type] = (getattr(library, name) for name in library.__all__)
    return [kind for kind in named if dataclasses.is_dataclass(kind)]


def _method_entry(method: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(method):
        raise ValueError(f"{type(method).__name__} must be a frozen dataclass of plain values to be written to a file")
    values = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    # Through JSON at once, so that what is kept in memory and what is read back compare equal.
    return json.loads(json.dumps({"name": type(method).__name__, "values": values}))


def _check_same_methods(network: nn.Module, file: AdapterFile) -> None:
    here = [_method_entry(method) for method in adaptation_of(network).methods]
    if here != file.record["methods"]:
        raise ValueError(
            f"{file.path} holds {file.record['methods']}, the network is adapted by {here}; use a fresh base"
        )


def _copy_in(network: nn.Module, file: AdapterFile, wanted: set[str]) -> None:
    state = network.state_dict()
    named = {network_name(network, name): file.tensors[name] for name in wanted & set(file.tensors)}
    for name, tensor in named.items():
        if name not in state or state[name].shape != tensor.shape:
            has = f"shape {tuple(state[name].shape)}" if name in state else "no such tensor"
            raise ValueError(f"{file.path} holds '{name}' of shape {tuple(tensor.shape)}, the network has {has}")
    frozen = sorted(set(named) - adaptation_of(network).changing)
    if frozen:
        raise ValueError(
            f"{file.path} holds '{frozen[0]}', which is frozen here; name it in also_train or load part='method'"
        )
    missing = (wanted - set(file.tensors)) | {
        file_name(network, name) for name in adaptation_of(network).method_tensors if name not in named
    }
    if missing:
        raise ValueError(f"{file.path} lacks '{min(missing)}' ({len(missing)} tensors); it was not saved whole")
    with torch.no_grad():
        for name, tensor in named.items():
            state[name].copy_(tensor)
