# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The folder of a run: run.json, fingerprints of config and data, a fresh start or the same run again."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import logging
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
import torch.distributed as dist

from monai_essa import __version__
from monai_essa.data.readers.npz import is_npz_name, npz_file
from monai_essa.engines.checkpoint import delete_resume_files, has_resume_files
from monai_essa.files import write_text_atomically

__all__ = [
    "RunRecord",
    "config_fingerprints",
    "datalist_fingerprint",
    "file_fingerprint",
    "finish_run",
    "open_run",
    "run_iterations",
]

logger = logging.getLogger(__name__)
_FILE = "run.json"
# A path in a command, and the kinds of file whose names say nothing about a patient.
_PATH = re.compile(r"[^\s'\"=,\[\]{}]*[/\\][^\s'\",\[\]{}]*")
_HARMLESS = (".yaml", ".yml", ".json", ".py", ".pt", ".safetensors")


@dataclass(frozen=True)
class RunRecord:
    """An open run.

    Attributes:
        folder: the run folder.
        fingerprint: of configuration, data and seed together; :class:`RunCheckpoint` takes it.
    """

    folder: Path
    fingerprint: str


def open_run(
    folder: str | Path,
    config: Mapping[str, Any],
    sections: Mapping[str, Sequence[Any]],
    seed: int,
    notes: Mapping[str, Any] | None = None,
) -> RunRecord:
    """Begin a run in a folder, or go on with the unfinished run that is there.

    A run that ended before its first checkpoint, say for an unreadable scan, is begun again with any values.

    Writes ``run.json``: seed, versions, digests of configuration and data, number of items, command, status, time and
    the notes. It travels with the results, so it names no file of the data, and no folder.

    Args:
        folder: the run folder; made if missing.
        config: what decides the result: see :func:`~monai_essa.engines.run_folder.config_fingerprints`.
        sections: items of the data list by section.
        seed: of all randomness in the run.
        notes: what a reader should see as it is, not as a digest: the stage, say. JSON values, and no file's name.

    Raises:
        FileExistsError: if the run there is finished.
        ValueError: if the run there has checkpoints and is of another configuration, data or seed, or run.json is
            damaged.
        FileNotFoundError: if a file of the data list is missing.

    Example:
        >>> import tempfile
        >>> record = open_run(tempfile.mkdtemp(), {"lr": 1.0e-3}, {"training": []}, seed=0)
        >>> finish_run(record.folder)
        >>> json.loads((record.folder / "run.json").read_text())["status"]
        'finished'
    """
    folder = Path(folder)
    identity = {"seed": seed, "data": datalist_fingerprint(sections), "config": config_fingerprints(config)}
    if _goes_on(folder, identity):
        logger.info("going on with the unfinished run in %s", folder)
    elif _is_first_process():
        folder.mkdir(parents=True, exist_ok=True)
        about = {"notes": dict(notes or {})} | _circumstances(sections)
        _write(folder, identity | about | {"status": "running", "started": _now()})
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return RunRecord(folder, digest[:16])


def finish_run(folder: str | Path, iterations: int | None = None, keep_resume: bool = False) -> None:
    """Mark a run as finished, when its results are written: from now on its folder is left alone.

    Args:
        folder: the run folder.
        iterations: how many training steps it took.
        keep_resume: keep the files of ``resume/``, from which nothing resumes any more; by default they are deleted.

    Raises:
        FileNotFoundError: if no run was opened in the folder.
    """
    folder = Path(folder)
    if not (folder / _FILE).exists():
        raise FileNotFoundError(f"{folder} holds no {_FILE}: open_run() must come before finish_run()")
    if _is_first_process():
        done = {} if iterations is None else {"iterations": iterations}
        _write(folder, _read(folder) | done | {"status": "finished", "finished": _now()})
        if not keep_resume:
            delete_resume_files(folder / "resume")


def run_iterations(folder: str | Path) -> int:
    """Read how many training steps a finished run took.

    Args:
        folder: the run folder.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: if the run is not finished, or run.json is damaged.
    """
    path = Path(folder) / _FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {_FILE}: give the folder of a finished run")
    record = _read(Path(folder))
    if record["status"] != "finished" or "iterations" not in record:
        raise ValueError(f"{path} says no number of iterations: give the folder of a finished run")
    return int(record["iterations"])


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
    return {str(name): _digest(_canonical(value, str(name))) for name, value in config.items()}


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
    return _digest(_with_sizes(sections, "data list"), digits=64)


def file_fingerprint(path: str | Path | None) -> str | None:
    """Digest the content of a file that a run starts from, such as its pretrained weights.

    Args:
        path: the file; None, for a run without it, gives None.

    Returns:
        A sha256.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    if path is None:
        return None
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _goes_on(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Tell whether the folder holds this very run, unfinished; raise if it holds one that would be lost."""
    if not (folder / _FILE).exists():
        return False
    there = _read(folder)
    if there["status"] == "finished":
        raise FileExistsError(f"{folder} holds a finished run: give another output folder, or delete this one")
    differ = [name for name in ("seed", "data") if there[name] != identity[name]]
    names = sorted(set(there["config"]) | set(identity["config"]))
    differ += [name for name in names if there["config"].get(name) != identity["config"].get(name)]
    if differ and has_resume_files(folder):
        raise ValueError(
            f"{folder} holds an unfinished run with other values of {', '.join(differ)}: "
            "give another output folder, the old values to go on with it, or delete it"
        )
    return not differ


def _read(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        return {name: record[name] for name in ("seed", "data", "config", "status")} | record
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / _FILE} is damaged: give another output folder, or delete this one") from error


def _write(folder: Path, record: Mapping[str, Any]) -> None:
    write_text_atomically(folder / _FILE, json.dumps(record, indent=2) + "\n")


def _circumstances(sections: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    return {
        "items": {name: len(items) for name, items in sections.items()},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "monai": monai.__version__,
            "monai_essa": __version__,
        },
        "command": " ".join(map(_without_folders, sys.orig_argv)),
    }


def _without_folders(part: str) -> str:
    if part in (sys.orig_argv[0], sys.argv[0]):
        return Path(part).name
    return _PATH.sub(_harmless_name, part)


def _harmless_name(match: re.Match[str]) -> str:
    name = re.split(r"[/\\]", match[0])[-1]
    return name if name.endswith(_HARMLESS) else "<path>"


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _is_first_process() -> bool:
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def _digest(value: Any, digits: int = 16) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:digits]


def _canonical(value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return [f"{type(value).__module__}.{type(value).__qualname__}", _canonical(fields, where)]
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
