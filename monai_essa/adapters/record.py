# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Read and check the header of an adapter file: which tensors it holds, and the record that protects them.

A received file is data of unknown origin. Every field of the record has a declared type and range, every entry of the
header is compared with the size of the file, and nothing is imported, evaluated or allocated here. The module needs
neither torch nor MONAI, so that ``monai-essa adapter info`` answers at once.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_essa.files import json_sha256
from monai_essa.licence import ORIGIN
from monai_essa.outside import (
    Check,
    ListOf,
    MapOf,
    Nullable,
    Number,
    Record,
    Text,
    check_config_value,
    check_pattern,
    shown,
)

__all__ = [
    "FOLDER_FILE",
    "FORMAT_VERSION",
    "KEY",
    "AdapterHeader",
    "StoredTensor",
    "check_card",
    "check_record",
    "methods_text",
    "read_header",
    "seal_record",
]

FORMAT_VERSION = 2
FOLDER_FILE = "adapter_model.safetensors"
"""The adapter file in a folder for the Hugging Face hub."""
KEY = "monai_essa"
"""The one entry of the safetensors metadata: the record as JSON."""

_LONGEST_HEADER = 32 << 20
_DEEPEST = 12
_WIDTHS = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "F16": 2, "BF16": 2, "I32": 4, "F32": 4, "I64": 8, "F64": 8}

_LINE = Text(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]*", 2000)
_WORD = Text(r"[A-Za-z_][A-Za-z0-9_]*", 200)
_TENSOR = Text(r"(encoder|network):[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+", 1000)
_DIGEST = Text(r"[0-9a-f]{64}", 64)


@dataclass(frozen=True)
class _Plain:
    """Plain JSON values: null, flags, finite numbers, lines of text, and lists and mappings of these."""

    def check(self, value: Any, where: str, depth: int = 0) -> Any:
        """Return the value."""
        if depth > _DEEPEST:
            raise ValueError(f"{where}: expected at most {_DEEPEST} levels of lists and mappings")
        if isinstance(value, Mapping):
            return {_LINE.check(name, where): self.check(item, where, depth + 1) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.check(item, where, depth + 1) for item in value]
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, (int, float)) and abs(value) < 2.0**63:  # NaN and infinity are not
            return value
        if isinstance(value, str):
            return _LINE.check(value, where)
        raise ValueError(f"{where}: expected a plain finite value, got {shown(value)}")


@dataclass(frozen=True)
class _Pattern:
    """A regular expression that cannot take forever to match."""

    def check(self, value: Any, where: str) -> str:
        """Return the pattern."""
        return check_pattern(value, where)


@dataclass(frozen=True)
class _Card:
    """The preprocessing card: plain values that are safe in a configuration, and a spacing in millimetres."""

    def check(self, value: Any, where: str) -> dict[str, Any]:
        """Return the card."""
        card = MapOf(_Plain(), _LINE).check(value, where)
        if "spacing" in card:
            spacing = Nullable(ListOf(Number(0, 1000), longest=3, shortest=1))
            spacing.check(card["spacing"], f"{where}, 'spacing'")
        checked: dict[str, Any] = check_config_value(card, where)
        return checked


_FORMAT_1: dict[str, Check] = {
    "format_version": Number(1, FORMAT_VERSION, whole=True),
    "methods": ListOf(Record({"name": _WORD, "values": MapOf(_Plain(), _WORD)}), longest=100),
    "method_tensors": ListOf(_TENSOR),
    "claims": ListOf(_TENSOR),
    "also_train": ListOf(_Pattern(), longest=1000),
    "network": _WORD,
    "versions": MapOf(_LINE, _WORD, longest=100),
    "preprocessing": _Card(),
    "fingerprint": MapOf(_DIGEST, _TENSOR),
}
_RECORDS = {
    1: Record(_FORMAT_1),
    2: Record(
        {
            **_FORMAT_1,
            "facts": MapOf(_LINE, _LINE),
            "positions": MapOf(ListOf(Number(1, 2**31, whole=True), longest=3, shortest=1), _TENSOR, longest=100),
            "tensors_sha256": _DIGEST,
            "record_sha256": _DIGEST,
        },
        {"base": ORIGIN},
    ),
}


@dataclass(frozen=True)
class StoredTensor:
    """The number format, as safetensors names it, and the shape of a tensor in a file."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class AdapterHeader:
    """The content of the header of an adapter file: its tensors by name, and the record."""

    path: Path
    tensors: dict[str, StoredTensor]
    record: dict[str, Any]


def read_header(path: str | Path) -> AdapterHeader:
    """Read the header of an adapter file; the tensors themselves are not read.

    Args:
        path: a file of :func:`monai_essa.adapters.file.save_adapter`, or a folder that holds one: of a finished stage,
            or of :func:`monai_essa.adapters.hub.folder.export_hub`.

    Returns:
        The header, with every entry and every field of the record checked.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, not an adapter or of a newer format, or a field has a wrong type or range.
    """
    path = _file_in(Path(path))
    if not path.is_file():
        raise FileNotFoundError(
            f"no adapter file at {path}; a finished stage writes adapter.safetensors into its run folder"
        )
    header, data_bytes = _read_json_header(path)
    metadata = MapOf(Text(r"(?s).*", _LONGEST_HEADER), _LINE).check(
        header.pop("__metadata__", {}), f"{path}, its metadata"
    )
    if KEY not in metadata:
        raise ValueError(
            f"{path} is a safetensors file but no adapter of monai_essa; load whole networks by load_weights()"
        )
    tensors = _entries(header, data_bytes, path)
    record = check_record(_parse(metadata[KEY], f"{path}, its record"), str(path))
    _check_complete(tensors, record, path)
    return AdapterHeader(path, tensors, record)


def check_record(record: Any, where: str) -> dict[str, Any]:
    """Return the record of an adapter file, every field checked.

    Args:
        record: the parsed JSON.
        where: the file, for messages.

    Raises:
        ValueError: if the format is newer, a field is missing, unknown or of another type or range, or the record was
            changed after it was sealed.
    """
    version = record.get("format_version") if isinstance(record, Mapping) else None
    if type(version) is int and version > FORMAT_VERSION:
        raise ValueError(
            f"{where} has adapter format {shown(version)}, this version reads {FORMAT_VERSION}; upgrade monai_essa"
        )
    schema = _RECORDS[1 if type(version) is int and version == 1 else FORMAT_VERSION]
    checked = schema.check(record, where)
    if checked.get("record_sha256", _digest(checked)) != _digest(checked):
        raise ValueError(f"{where}: the record does not have the checksum that it was saved with; copy the file again")
    return checked


def seal_record(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a checked record of the current format with its own checksum, ready to be written.

    Raises:
        ValueError: if a reader would refuse a field.
    """
    content = dict(record) | {"format_version": FORMAT_VERSION}
    return check_record(content | {"record_sha256": _digest(content)}, where)


def check_card(card: Mapping[str, Any] | None, where: str) -> dict[str, Any]:
    """Return a preprocessing card as JSON values, checked so that an error shows before training and not after it.

    Args:
        card: spacing (mm), axcodes, intensity, label names; None for an empty one.
        where: the start of the message.

    Raises:
        ValueError: if a value is not plain, not finite or would be evaluated in a configuration.

    Example:
        >>> check_card({"spacing": (1.0, 1.0, 2.5), "labels": {1: "liver"}}, "card")
        {'spacing': [1.0, 1.0, 2.5], 'labels': {'1': 'liver'}}
    """
    try:
        plain = json.loads(json.dumps(dict(card or {}), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where}: expected plain values, finite numbers and text: {_first_line(error)}") from error
    return _Card().check(plain, where)


def methods_text(record: Mapping[str, Any]) -> str:
    """Return the methods of a record as they are written in Python.

    Example:
        >>> methods_text({"methods": [{"name": "APLA", "values": {"columns": 8, "seed": 0}}]})
        'APLA(columns=8, seed=0)'
    """
    calls = [
        f"{entry['name']}({', '.join(f'{key}={value!r}' for key, value in entry['values'].items())})"
        for entry in record["methods"]
    ]
    return ", ".join(calls)


def _file_in(path: Path) -> Path:
    """Return the adapter file of a folder; a file is returned as it is."""
    if not path.is_dir():
        return path
    return path / (FOLDER_FILE if (path / FOLDER_FILE).is_file() else "adapter.safetensors")


def _read_json_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the JSON header and the number of bytes of data after it."""
    with path.open("rb") as file:
        start, size = file.read(8), os.fstat(file.fileno()).st_size
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
            raise _damaged(path, f"a header of {length} bytes in a file of {size}")
        text = file.read(length)
    header = _parse(text, f"{path} is damaged or no safetensors file, its header")
    if not isinstance(header, dict):
        raise _damaged(path, "the header is not a mapping")
    return header, size - 8 - length


def _parse(text: str | bytes, where: str) -> Any:
    try:
        return json.loads(
            text.decode("utf-8") if isinstance(text, bytes) else text,
            object_pairs_hook=_without_repeats,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: expected JSON, got {shown(text)}: {_first_line(error)}; copy it again") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name stands twice")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _entries(header: Mapping[str, Any], data_bytes: int, path: Path) -> dict[str, StoredTensor]:
    """Check that the tensors fill the data without a gap or an overlap, as safetensors requires."""
    entries, spans = {}, []
    for name, entry in header.items():
        _TENSOR.check(name, f"{path}, the name of a tensor")
        spans.append(_span(name, entry, path))
        entries[name] = StoredTensor(entry["dtype"], tuple(entry["shape"]))
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise _damaged(path, f"the data has a gap or an overlap at byte {end}")
        end = stop
    if end != data_bytes:
        raise _damaged(path, f"{end} bytes of data expected, {data_bytes} found")
    return entries


def _span(name: str, entry: Any, path: Path) -> tuple[int, int]:
    where, size = f"{path}, tensor {shown(name)}", Number(0, 2**53, whole=True)
    fields: dict[str, Check] = {
        "dtype": _WORD,
        "shape": ListOf(size, longest=16),
        "data_offsets": ListOf(size, longest=2, shortest=2),
    }
    checked = Record(fields).check(entry, where)
    if checked["dtype"] not in _WIDTHS:
        raise ValueError(f"{where}: expected a number format of {', '.join(_WIDTHS)}, got {shown(checked['dtype'])}")
    start, stop = checked["data_offsets"]
    if stop - start != math.prod(checked["shape"]) * _WIDTHS[checked["dtype"]]:
        raise _damaged(path, f"tensor {shown(name)} of shape {checked['shape']} in {stop - start} bytes")
    return start, stop


def _check_complete(tensors: Mapping[str, StoredTensor], record: Mapping[str, Any], path: Path) -> None:
    missing = set(record["method_tensors"]) - set(tensors)
    if missing:
        raise ValueError(f"{path} lacks '{min(missing)}' ({len(missing)} tensors); it was not saved whole")
    both = sorted(set(record["fingerprint"]) & set(tensors))
    if both:
        raise ValueError(f"{path}: '{both[0]}' is both a tensor of the file and one of the base's; save it anew")


def _digest(record: Mapping[str, Any]) -> str:
    content = {name: value for name, value in record.items() if name != "record_sha256"}
    return json_sha256(content)


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is damaged or no safetensors file ({why}); copy it again or save it anew")


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
