# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Save and load adapter files: the tensors that may differ from the pretrained network, and a record to trust them.

An adapter file is a safetensors file. Tensors of the encoder are named relative to it
(``encoder:blocks.0.attn.out_proj.weight``), so that an adapter moves from a ViT to a UNETR; others keep their full name
(``network:out.conv.conv.bias``). One metadata entry, ``monai_essa``, holds the record as JSON, format 2: the methods
and their values, also_train, network class, versions and preprocessing card; for the base, a sha256 of each encoder
tensor that the file does not hold, the settings of its layers (:func:`~monai_essa.adapters.identity.encoder_facts`) and
the grid of its position embeddings, and, as ``base``, its family, licence and authors where they are known, since an
adapter holds tensors that derive from it; and two checksums, of the file's own tensors and of the record. Format 1,
which has neither the settings nor the checksums, is read with a warning.
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
from monai_essa.adapters.adaptation import adapt, method_shapes
from monai_essa.adapters.adapted import enabled_adaptation, is_adapted
from monai_essa.adapters.claims import unchanged_on_error
from monai_essa.adapters.identity import (
    base_identity,
    check_same_base,
    check_same_claims,
    check_values,
    file_name,
    sha256_of_all,
)
from monai_essa.adapters.record import FORMAT_VERSION, KEY, check_card, read_header, seal_record
from monai_essa.adapters.state import (
    adapter_state_dict,
    check_all_learned,
    check_fits,
    check_method_tensors,
    check_part,
    copy_in,
    fitting_tensors,
)
from monai_essa.anatomy.described.description import EncoderDescription
from monai_essa.anatomy.described.fit import describe
from monai_essa.anatomy.parts import unwrapped
from monai_essa.files import written_whole
from monai_essa.licence import kept_origin
from monai_essa.methods.method import AdaptationMethod

__all__ = ["AdapterFile", "adapt_by_file", "load_adapter", "read_adapter", "save_adapter", "write_adapter"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdapterFile:
    """The content of an adapter file: tensors by file name (``encoder:...``, ``network:...``) and the JSON record."""

    path: Path
    tensors: dict[str, torch.Tensor]
    record: dict[str, Any]

    def methods(self, classes: Sequence[type] = ()) -> tuple[AdaptationMethod, ...]:
        """Rebuild the methods from :mod:`monai_essa.methods` or from ``classes``; nothing is imported by name.

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
    """Write every tensor that may differ from the pretrained network, and the record that protects them.

    The file is written under a temporary name, synced, then renamed, so a reader sees either the old file or the
    complete new one.

    Args:
        network: an adapted network; one that ``torch.compile`` or a parallel wrapper holds is seen through.
        path: where to write; the usual suffix is ``.safetensors``.
        preprocessing: the card, as JSON values: spacing (mm), axcodes, intensity, label names; default: empty.

    Returns:
        The path.

    Raises:
        ValueError: if the network is not adapted, a tensor holds NaN or infinity, or the card holds other than plain
            values. Nothing is written then, and an earlier file stays as it is.
    """
    path, record, network = Path(path), enabled_adaptation(network), unwrapped(network)
    tensors = adapter_state_dict(network)
    content = {
        "format_version": FORMAT_VERSION,
        "methods": [_method_entry(method) for method in record.methods],
        "method_tensors": sorted(file_name(network, name) for name in record.method_tensors),
        "claims": sorted({file_name(network, name) for name in record.claims}),
        "also_train": list(record.also_train),
        "network": type(network).__name__,
        "preprocessing": check_card(preprocessing, f"{path} was not written, preprocessing"),
        **base_identity(network, tensors),
        **({} if (origin := kept_origin(network)) is None else {"base": origin}),
    }
    return write_adapter(path, tensors, content)


def write_adapter(path: str | Path, tensors: Mapping[str, torch.Tensor], content: Mapping[str, Any]) -> Path:
    """Write an adapter file from its tensors and its record, whose checksums are made here.

    Args:
        path: where to write, whole or not at all.
        tensors: by name in a file.
        content: the record; checksums and versions in it are replaced.

    Returns:
        The path.

    Raises:
        ValueError: if a tensor or a field of the record is one that a reader would refuse.
    """
    path = Path(path)
    check_values(tensors, f"{path} was not written")
    versions = {"torch": str(torch.__version__), "monai": monai.__version__, "monai_essa": __version__}
    whole = dict(content) | {"versions": versions, "tensors_sha256": sha256_of_all(tensors)}
    sealed = seal_record(whole, f"{path} was not written")
    with written_whole(path) as temporary:
        temporary.write_bytes(save(dict(tensors), metadata={KEY: json.dumps(sealed)}))
    return path


def read_adapter(path: str | Path) -> AdapterFile:
    """Read an adapter file without touching a network.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, not an adapter or of a newer format, or if it holds values that cannot come
            from training.
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
    anatomy: EncoderDescription | None = None,
) -> nn.Module:
    """Load an adapter file: adapt a fresh base by the file's own methods, or swap the values of an adapted network.

    Args:
        network: the base network with its pretrained weights, or one that is adapted by the same methods; one that
            ``torch.compile`` or a parallel wrapper holds is seen through.
        path: a file of :func:`save_adapter`, of this network's class or of one with the same encoder; or a folder that
            holds it, of a finished stage or for the Hugging Face hub.
        part: ``"all"``, or ``"method"`` for the methods' tensors only, as between stages, of which the next one trains
            its own decoder and head; the names of the other tensors are logged.
        also_train: on a fresh base, what trains beside the methods from here on; default: with ``part="all"`` what the
            file records, with ``part="method"`` nothing. With the default, ``part="all"`` refuses a file that lacks a
            tensor which learns in the network.
        methods: classes of methods in the file that do not belong to the library.
        anatomy: as for :func:`~monai_essa.adapters.adaptation.adapt`; the file records it, and never brings it along.

    Returns:
        The same network object, adapted, with the values of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, was made on another base or with other methods, or its tensors do not fit.
            The network is then exactly as it was.
    """
    check_part(part)
    file = read_adapter(path)
    with unchanged_on_error(unwrapped(network)):
        if anatomy is not None:
            describe(unwrapped(network), anatomy)
        named = adapt_by_file(network, file, part, also_train, methods)
    copy_in(unwrapped(network), named)
    left = sorted(set(file.tensors) - _wanted(file, part))
    if left:
        _logger.info("%s: left %d tensors that are no method's: %s", path, len(left), ", ".join(left))
    return network


def adapt_by_file(
    network: nn.Module,
    file: AdapterFile,
    part: str = "all",
    also_train: Sequence[str] | None = None,
    methods: Sequence[type] = (),
) -> dict[str, torch.Tensor]:
    """Adapt a base by the methods of a file, unless it is adapted by them already; the values are not written yet.

    Args:
        network: as in :func:`load_adapter`, and likewise ``part``, ``also_train`` and ``methods``.
        file: the result of :func:`read_adapter`.

    Returns:
        The values to write, by name in the network.

    Raises:
        ValueError: under the conditions of :func:`load_adapter`. The network is then exactly as it was.
    """
    inner, chosen, where = unwrapped(network), file.methods(methods), str(file.path)
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
        wanted = {name: file.tensors[name] for name in _wanted(file, part)}
        named = fitting_tensors(inner, wanted, file.record["method_tensors"], where)
        if part == "all" and also_train is None:
            check_all_learned(inner, file.tensors, where)
    return named


def _wanted(file: AdapterFile, part: str) -> set[str]:
    return set(file.record["method_tensors"]) if part == "method" else set(file.tensors)


def _library_methods() -> list[type]:
    named: Iterator[type] = (getattr(library, name) for name in library.__all__)
    return [kind for kind in named if dataclasses.is_dataclass(kind)]


@contextmanager
def _naming(path: Path, what: str) -> Iterator[None]:
    """Turn any error that the values of a record cause into one line that names the file."""
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
    # Converted through JSON here, so that entries in memory and entries from a file compare equal.
    entry: dict[str, Any] = json.loads(json.dumps({"name": type(method).__name__, "values": values}))
    return entry


def _check_same_methods(network: nn.Module, file: AdapterFile) -> None:
    here = [_method_entry(method) for method in enabled_adaptation(network).methods]
    if here != file.record["methods"]:
        raise ValueError(
            f"{file.path} holds {file.record['methods']}, the network is adapted by {here}; use a fresh base, or "
            "add_adapter(network, name, path)"
        )


def _check_sizes(network: nn.Module, file: AdapterFile, methods: Sequence[AdaptationMethod]) -> None:
    """Compare what the methods would add to the network with what the file holds, before memory is allocated."""
    shapes = method_shapes(network, methods)
    if shapes is not None:
        made = {file_name(network, name): tensor for name, tensor in shapes.items()}
        check_method_tensors(made, file.record["method_tensors"], str(file.path))
        for name, tensor in made.items():
            check_fits(name, file.tensors[name], tensor, str(file.path))
