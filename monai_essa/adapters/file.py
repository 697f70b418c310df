# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Adapter files: the tensors that may differ from the pretrained network, and what is needed to trust them.

A safetensors file. Tensors of the encoder are named relative to it (``encoder:blocks.0.attn.out_proj.weight``), so that
an adapter moves from a ViT to a UNETR; others keep their full name (``network:out.conv.conv.bias``). One metadata
entry, ``monai_essa``, holds JSON, format 2: methods and their values, also_train, network class, versions, the
preprocessing card; of the base a sha256 of each encoder tensor that the file does not hold, what its layers are
(:func:`~monai_essa.adapters.identity.encoder_facts`) and the grid of its position embeddings; and two checksums, of the
file's own tensors and of the record. Format 1, which has neither the facts nor the checksums, is read with a warning.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai
import torch
import torch.nn as nn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from monai_essa import __version__
from monai_essa import methods as library
from monai_essa.adapters.adaptation import adapt, enabled_adaptation, is_adapted, method_shapes
from monai_essa.adapters.claims import unchanged_on_error
from monai_essa.adapters.identity import (
    base_identity,
    check_same_base,
    check_same_claims,
    check_values,
    file_name,
    network_name,
    sha256_of_all,
)
from monai_essa.adapters.record import FORMAT_VERSION, KEY, check_card, read_header, seal_record
from monai_essa.anatomy.parts import unwrapped
from monai_essa.files import written_whole
from monai_essa.methods.method import AdaptationMethod

__all__ = ["AdapterFile", "load_adapter", "read_adapter", "save_adapter"]

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
            ValueError: if a method is neither of the library nor among ``classes``, or refuses its values.
        """
        known = {kind.__name__: kind for kind in (*_library_methods(), *classes)}
        for name in (entry["name"] for entry in self.record["methods"]):
            if name not in known:
                raise ValueError(
                    f"{self.path}: method '{name}' is unknown; pass its class as load_adapter(methods=[...])"
                )
        return tuple(self._built(known[entry["name"]], entry["values"]) for entry in self.record["methods"])

    def _built(self, kind: type, values: Mapping[str, Any]) -> AdaptationMethod:
        with _naming(self.path, f"the record of {kind.__name__}"):
            fields = {field.name for field in dataclasses.fields(kind) if field.init}
            if unknown := sorted(set(values) - fields):
                raise ValueError(f"there is no field '{unknown[0]}', only {', '.join(sorted(fields))}")
            method: AdaptationMethod = kind(**values)
            return method


def save_adapter(network: nn.Module, path: str | Path, preprocessing: Mapping[str, Any] | None = None) -> Path:
    """Write every tensor that may differ from the pretrained network, and the record that guards it.

    The file is written under a temporary name, synced, then renamed: a reader sees the old file or the whole new one.

    Args:
        network: an adapted network; one that ``torch.compile`` or a parallel wrapper holds is seen through.
        path: where to write; ``.safetensors`` by custom.
        preprocessing: the card: spacing (mm), axcodes, intensity, label names. JSON values.

    Returns:
        The path.

    Raises:
        ValueError: if the network is not adapted, a tensor holds NaN or infinity, or the card is more than plain
            values. Nothing is written then, and an earlier file stays as it is.
    """
    path, record, network = Path(path), enabled_adaptation(network), unwrapped(network)
    state = network.state_dict()
    tensors = {
        file_name(network, name): state[name].detach().to("cpu", copy=True).contiguous() for name in record.changing
    }
    check_values(tensors, f"{path} was not written")
    content = {
        "format_version": FORMAT_VERSION,
        "methods": [_method_entry(method) for method in record.methods],
        "method_tensors": sorted(file_name(network, name) for name in record.method_tensors),
        "claims": sorted({file_name(network, name) for name in record.claims}),
        "also_train": list(record.also_train),
        "network": type(network).__name__,
        "versions": {"torch": str(torch.__version__), "monai": monai.__version__, "monai_essa": __version__},
        "preprocessing": check_card(preprocessing, f"{path} was not written, preprocessing"),
        **base_identity(network, tensors),
        "tensors_sha256": sha256_of_all(tensors),
    }
    sealed = seal_record(content, f"{path} was not written")
    with written_whole(path) as temporary:
        temporary.write_bytes(save(tensors, metadata={KEY: json.dumps(sealed)}))
    return path


def read_adapter(path: str | Path) -> AdapterFile:
    """Read an adapter file without touching a network.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, not an adapter, or of a newer format, or holds values that no training
            leaves behind.
    """
    header = read_header(path)
    try:
        with safe_open(header.path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ValueError(
            f"{header.path} is damaged or no safetensors file ({error}); copy it again or save it anew"
        ) from error
    if header.record.get("tensors_sha256") not in (None, sha256_of_all(tensors)):
        raise ValueError(
            f"{header.path}: its tensors do not have the checksum that they were saved with; copy it again"
        )
    check_values(tensors, str(header.path))
    return AdapterFile(header.path, tensors, header.record)


def load_adapter(
    network: nn.Module,
    path: str | Path,
    part: str = "all",
    also_train: Sequence[str] | None = None,
    methods: Sequence[type] = (),
) -> nn.Module:
    """Put an adapter file onto its base: adapt a fresh base by the file's own methods, or swap on an adapted network.

    Args:
        network: the base network with its pretrained weights, or one that is adapted by the same methods; one that
            ``torch.compile`` or a parallel wrapper holds is seen through.
        path: a file of :func:`save_adapter`, of this network's class or of one with the same encoder.
        part: ``"all"``, or ``"method"`` for the methods' tensors alone (stages hand over so: the next one trains its
            own decoder and head); what was left is logged.
        also_train: on a fresh base, what trains beside the methods from here on; default: with ``part="all"`` what the
            file says, with ``part="method"`` nothing. Unless it is given, ``part="all"`` refuses a file that lacks a
            tensor which learns in the network.
        methods: classes of methods that are not the library's own.

    Returns:
        The same network object, adapted, holding the file's values.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, was made on another base or with other methods, or its tensors do not fit.
            The network is then exactly as it was.
    """
    if part not in ("all", "method"):
        raise ValueError(f"part must be 'all' or 'method', got {part!r}")
    inner, file = unwrapped(network), read_adapter(path)
    wanted = set(file.record["method_tensors"]) if part == "method" else set(file.tensors)
    chosen = file.methods(methods)
    with unchanged_on_error(inner), _naming(file.path, "it does not fit this network"):
        if is_adapted(inner):
            _check_same_methods(inner, file)
            check_same_base(inner, file.record, file.path, file.tensors)
        else:
            check_same_claims(inner, file.record, file.path, chosen)
            check_same_base(inner, file.record, file.path, file.tensors)
            _check_sizes(inner, file, chosen)
            default = file.record["also_train"] if part == "all" else ()
            adapt(network, chosen, default if also_train is None else also_train)
        named = _fitting(inner, file, wanted)
        if part == "all" and also_train is None:
            _check_all_learned(inner, file)
    _copy_in(inner, named)
    left = sorted(set(file.tensors) - wanted)
    if left:
        _logger.info("%s: left %d tensors that are no method's: %s", path, len(left), ", ".join(left))
    return network


def _library_methods() -> list[type]:
    named: Iterator[type] = (getattr(library, name) for name in library.__all__)
    return [kind for kind in named if dataclasses.is_dataclass(kind)]


@contextmanager
def _naming(path: Path, what: str) -> Iterator[None]:
    """Make one line that names the file of whatever a record's values set off."""
    try:
        yield
    except (ValueError, TypeError, OverflowError, MemoryError, RuntimeError, AttributeError, LookupError) as error:
        line = str(error).partition("\n")[0]
        if isinstance(error, ValueError) and str(path) in line:
            raise
        raise ValueError(f"{path}: {what}: {line or type(error).__name__}") from error


def _method_entry(method: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(method):
        raise ValueError(f"{type(method).__name__} must be a frozen dataclass of plain values to be written to a file")
    values = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    # Through JSON at once, so that what is kept in memory and what is read back compare equal.
    entry: dict[str, Any] = json.loads(json.dumps({"name": type(method).__name__, "values": values}))
    return entry


def _check_same_methods(network: nn.Module, file: AdapterFile) -> None:
    here = [_method_entry(method) for method in enabled_adaptation(network).methods]
    if here != file.record["methods"]:
        raise ValueError(
            f"{file.path} holds {file.record['methods']}, the network is adapted by {here}; use a fresh base"
        )


def _check_sizes(network: nn.Module, file: AdapterFile, methods: Sequence[AdaptationMethod]) -> None:
    """Compare what the methods would make of the network with what the file holds, before a byte of it is allocated."""
    shapes = method_shapes(network, methods)
    if shapes is not None:
        made = {file_name(network, name): tensor for name, tensor in shapes.items()}
        _check_method_tensors(set(made), file)
        for name, tensor in made.items():
            _check_fits(name, file.tensors[name], tensor, file)


def _check_method_tensors(here: set[str], file: AdapterFile) -> None:
    theirs = set(file.record["method_tensors"])
    if here - theirs:
        raise ValueError(
            f"{file.path} lacks '{min(here - theirs)}' ({len(here - theirs)} tensors); it was not saved whole"
        )
    if theirs - here:
        raise ValueError(f"{file.path} holds '{min(theirs - here)}', which its methods do not make of this network")


def _check_fits(name: str, theirs: torch.Tensor, here: torch.Tensor | None, file: AdapterFile) -> None:
    if here is None or here.shape != theirs.shape:
        has = "no such tensor" if here is None else f"shape {tuple(here.shape)}"
        raise ValueError(f"{file.path} holds '{name}' of shape {tuple(theirs.shape)}, the network has {has}")
    both_float = here.is_floating_point() and theirs.is_floating_point()
    if here.dtype != theirs.dtype and not both_float:
        raise ValueError(f"{file.path} holds '{name}' in {theirs.dtype}, the network has {here.dtype}")


def _check_indices(network: nn.Module, named: Mapping[str, torch.Tensor], file: AdapterFile) -> None:
    """Check that indices point to rows of the weight beside them."""
    state = network.state_dict()
    for name, tensor in named.items():
        weight = state.get(f"{name.rpartition('.')[0]}.weight")
        if weight is None or tensor.is_floating_point() or tensor.dim() != 1 or not len(tensor):
            continue
        if tensor.max() >= len(weight):
            raise ValueError(f"{file.path}: '{name}' holds the index {int(tensor.max())} of {len(weight)} rows")


def _fitting(network: nn.Module, file: AdapterFile, wanted: set[str]) -> dict[str, torch.Tensor]:
    """Return the wanted tensors by their names in an adapted network, once all of them fit."""
    state, record = network.state_dict(), enabled_adaptation(network)
    _check_method_tensors({file_name(network, name) for name in record.method_tensors}, file)
    named = {network_name(network, name): file.tensors[name] for name in wanted}
    for name, tensor in named.items():
        _check_fits(name, tensor, state.get(name), file)
    frozen = sorted(set(named) - record.changing)
    if frozen:
        raise ValueError(
            f"{file.path} holds '{frozen[0]}', which is frozen here; name it in also_train or load part='method'"
        )
    _check_indices(network, named, file)
    return named


def _check_all_learned(network: nn.Module, file: AdapterFile) -> None:
    """Check that the file has a value for all that learns here: what it lacks would stay as another adapter left it."""
    here = {file_name(network, name) for name in enabled_adaptation(network).changing}
    lacking = sorted(here - set(file.tensors))
    if lacking:
        raise ValueError(
            f"{file.path} lacks '{lacking[0]}' ({len(lacking)} tensors), which learns here; load part='method' to keep "
            "what this network has, or use a base that is built and adapted like the file's"
        )


def _copy_in(network: nn.Module, named: Mapping[str, torch.Tensor]) -> None:
    state = network.state_dict()
    with torch.no_grad():
        for name, tensor in named.items():
            state[name].copy_(tensor)
