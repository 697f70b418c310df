# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Read the loss log of a run: one row per epoch or step, as JSON lines or as CSV with a header."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

__all__ = ["read_loss_log"]


def read_loss_log(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read a log with columns such as ``epoch``, ``iteration``, ``loss``, its parts and ``lr``.

    Args:
        path: a ``.jsonl`` file with one object per line, or a ``.csv`` file with a header.

    Returns:
        One float64 array per column, all of one length; NaN where a row lacks the value. The entry ``name`` of a
        nested object ``validation`` becomes the column ``validation.name``.

    Raises:
        ValueError: if the file has another suffix or no row, a value is not a number, or a JSON line is damaged.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "losses.csv"
        >>> _ = file.write_text("iteration,loss\\n1,0.9\\n2,0.7\\n")
        >>> read_loss_log(file)["loss"]
        array([0.9, 0.7])
    """
    path = Path(path)
    rows = [dict(_flat(row)) for row in _read_rows(path)]
    if not rows:
        raise ValueError(f"{path} holds no row; expected one per epoch or step, with the columns iteration and loss")
    columns = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([_number(row.get(name), name, path) for row in rows]) for name in columns}


def _read_rows(path: Path) -> list[dict]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".csv":
        return list(csv.DictReader(text.splitlines()))
    if path.suffix != ".jsonl":
        raise ValueError(f"{path} has the suffix {path.suffix!r}; a loss log is a .csv or a .jsonl file")
    try:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} has a line that is not JSON: {error}") from error
    for row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{path} has a line that is not a JSON object: {row!r}")
    return rows


def _flat(row: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _number(value: object, name: str, path: Path) -> float:
    if value is None or value == "":
        return float("nan")
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"{path}: {name} is {value!r}, expected a number")
    try:
        return float(value)
    except ValueError as error:
        raise ValueError(f"{path}: {name} is {value!r}, expected a number") from error
