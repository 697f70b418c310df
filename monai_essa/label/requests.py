# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What the requests of MONAI Label's clients may say: a type and a range for each field; other fields are refused.

The fields are those that this app reads, and those that MONAI Label itself, 3D Slicer, OHIF, CVAT and DSA send to every
app. The latter are checked and then not used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from monailabel.utils.others.generic import device_map

from monai_essa.label.store import ADAPTER_NAME
from monai_essa.outside import (
    Check,
    Choice,
    Flag,
    ListOf,
    MapOf,
    Nullable,
    Number,
    Record,
    Text,
    check_config_value,
    shown,
)

__all__ = [
    "Device",
    "JSONValue",
    "PlainValue",
    "config_text",
    "infer_record",
    "info_record",
    "scoring_record",
    "strategy_record",
    "train_record",
]

# Bytes of the JSON of a field that is kept as it came, such as the names of a label's segments.
_LONGEST_VALUE = 100_000
_RELATIVE_ID = re.compile(r"[@%]#")


@dataclass(frozen=True)
class Device:
    """A device of this computer, by its name in torch or in MONAI Label; a list stands for its first entry.

    ``cuda`` on a computer without a GPU means the CPU, as in all of MONAI Label.
    """

    def check(self, value: Any, where: str) -> str:
        """Return the device's name.

        Example:
            >>> Device().check("cpu", "device")
            'cpu'
        """
        name = value[0] if isinstance(value, (list, tuple)) and value else value
        known = {"cpu", "cuda", *device_map()} | {f"cuda:{number}" for number in range(torch.cuda.device_count())}
        if torch.backends.mps.is_available():
            known.add("mps")
        if isinstance(name, str) and re.fullmatch(r"cuda:\d{1,2}", name) and not torch.cuda.is_available():
            return "cuda"
        return Choice(sorted(known)).check(name, where)


@dataclass(frozen=True)
class JSONValue:
    """Any JSON of limited size, for notes that are stored and returned."""

    def check(self, value: Any, where: str) -> Any:
        """Return the value."""
        try:
            size = len(json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8"))
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{where}: expected a JSON value, got {shown(value)}") from error
        if size > _LONGEST_VALUE:
            raise ValueError(f"{where}: expected at most {_LONGEST_VALUE} bytes of JSON, got {size}")
        return value


@dataclass(frozen=True)
class PlainValue:
    """JSON of limited size without any text that a ConfigParser would evaluate."""

    def check(self, value: Any, where: str) -> Any:
        """Return the value."""
        return check_config_value(JSONValue().check(value, where), where)


@dataclass(frozen=True)
class _OneOrFirst:
    """A value, or a list whose first entry is meant, since clients return the lists of choices of ``/info/``."""

    of: Check

    def check(self, value: Any, where: str) -> Any:
        return self.of.check(value[0] if isinstance(value, list) and value else value, where)


@dataclass(frozen=True)
class _Images:
    """Which images a batch inference is for: all, those with or without a label, or a list of ids."""

    def check(self, value: Any, where: str) -> Any:
        ids = ListOf(_TEXT)
        return (
            ids.check(value, where)
            if isinstance(value, list)
            else Choice(["all", "labeled", "unlabeled"]).check(value, where)
        )


_COUNT = Number(0, 1_000_000, whole=True)
_TEXT = Text(r"(?!\s*[$@%])[^\x00-\x1f\x7f\u2028\u2029]*")  # nothing that a ConfigParser would evaluate
_NAME = Nullable(_TEXT)
_POINTS = ListOf(PlainValue(), longest=10_000)
_ADAPTER = Nullable(_OneOrFirst(Text(rf"({ADAPTER_NAME})?", 64)))
_GPUS = Nullable(Text(r"(all|\d{1,2}(,\d{1,2})*)?", 64))  # it becomes an environment variable of the task's process

# What a client or MONAI Label adds to the request of any task.
_ANY: dict[str, Check] = {
    "model": _TEXT,
    "client_id": _NAME,
    "user": _NAME,
    "name": _NAME,
    "description": Nullable(Text(r"[^\x00]*", 100_000)),
    "device": Nullable(Device()),
    "adapter": _ADAPTER,
    "gpus": _GPUS,
    "multi_gpu": Flag(),
    "logging": Choice(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "debug", "info", "warning", "error"]),
}
# What trainings of MONAI Label's own apps take, and its clients therefore may send.
_TRAIN: dict[str, Check] = {
    "local_rank": _COUNT,
    "early_stop_patience": Number(-1, 1_000_000, whole=True),
    "train_batch_size": _COUNT,
    "val_batch_size": _COUNT,
    "dataset": _NAME,
    "dataset_limit": _COUNT,
    "dataset_max_region": PlainValue(),
    "dataset_randomize": Flag(),
    "dataloader": _NAME,
    "girder_api_url": _NAME,
    "girder_token": _NAME,
    "tracking": _NAME,
    "tracking_uri": _NAME,
    "tracking_experiment_name": _NAME,
    "run_id": _NAME,
    "run_name": _NAME,
    "undo": Flag(),
}
_INFER: dict[str, Check] = {
    "image": Text(_TEXT.pattern, 4096),
    "images": _Images(),
    "label": Nullable(PlainValue()),
    "label_tag": _TEXT,
    "label_info": ListOf(PlainValue(), longest=10_000),
    "label_prompt": PlainValue(),
    "labels": PlainValue(),
    "save_label": Flag(),
    "session": PlainValue(),
    "result_extension": Nullable(Choice(["", ".nii", ".nii.gz", ".nrrd", ".seg.nrrd", ".mha", ".mhd", ".png"])),
    "result_dtype": Nullable(
        Choice(["uint8", "uint16", "uint32", "int8", "int16", "int32", "int64", "float32", "float64"])
    ),
    "result_compress": Flag(),
    "result_write_to_file": Flag(),
    "restore_label_idx": Flag(),
    "largest_cc": Flag(),
    "output": Choice(["image", "json", "all", "dicom_seg"]),
    "timeout": Number(1, 86_400),
    "max_workers": _COUNT,
    "max_batch_size": _COUNT,
    "foreground": _POINTS,
    "background": _POINTS,
    "points": _POINTS,
    "point_labels": _POINTS,
    "roi": Nullable(PlainValue()),
    "slice": Nullable(Number(-1, 1_000_000, whole=True)),
    "reset_state": Flag(),
    "selected_label_name": _NAME,
    "_id": _COUNT,  # of MONAI Label's batch inference
    "_image_id": _TEXT,
}


def train_record(options: Mapping[str, Check]) -> Record:
    """Return the record of the fields that a request for a training may have.

    Args:
        options: the checks of the stage's own options, by name.
    """
    return Record({}, {**_ANY, **_TRAIN, **options})


def infer_record(offered: Collection[str], labels: Collection[str]) -> Record:
    """Return the record of the fields that a request for an inference may have.

    Args:
        offered: names of the options that this task offers its clients in addition to those of every task.
        labels: names of the segments; clients for clicks send points under them.
    """
    own: dict[str, Check] = {name: PlainValue() for name in offered}
    return Record({}, {**dict.fromkeys(labels, _POINTS), **own, **_ANY, **_INFER})


def strategy_record() -> Record:
    """Return the record of the fields that a request for the next volume may have."""
    names = ListOf(_TEXT, longest=1000)
    own: dict[str, Check] = {
        "label_tag": _NAME,
        "labels": Nullable(names),
        "max_samples": _COUNT,
        "num_samples": _COUNT,
    }
    return Record({}, {**_ANY, **own, "strategy": _TEXT})


def scoring_record() -> Record:
    """Return the record of the fields that a request for a scoring may have."""
    own: dict[str, Check] = {"method": _TEXT, "y": _NAME, "y_pred": _NAME, "label_tag": _NAME, "labels": PlainValue()}
    return Record({}, {**_ANY, **own, "num_samples": _COUNT})


def info_record() -> MapOf:
    """Return what a client may note about an image or a label, such as the names of its segments."""
    return MapOf(JSONValue(), Text(r"[A-Za-z][A-Za-z0-9_. -]*", 64), longest=100)


def config_text(value: Any, where: str) -> str:
    """Return a path or a name as text that a ConfigParser takes as it is.

    Raises:
        ValueError: if MONAI would evaluate it, or read a part of it as the id of a configuration item.

    Example:
        >>> config_text("/studies/case_01.nii.gz", "image")
        '/studies/case_01.nii.gz'
    """
    text = check_config_value(str(value), where)
    if _RELATIVE_ID.search(text):
        raise ValueError(f"{where}: '@#' and '%#' mean an item of a configuration to MONAI; rename {shown(text)}")
    return text
