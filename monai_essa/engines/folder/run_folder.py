# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The record of a run, run.json, and whether a start begins a run or goes on with the one that is there."""

from __future__ import annotations

import datetime
import json
import logging
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch

from monai_essa import __version__
from monai_essa.distributed.processes import leave_processes, process_rank, started_again
from monai_essa.engines.checkpoint import delete_resume_files, has_resume_files
from monai_essa.engines.folder.fingerprints import datalist_fingerprint, setting_fingerprints
from monai_essa.files import json_sha256, write_text_whole
from monai_essa.outside import check_config_value

__all__ = ["RunRecord", "finish_run", "note_origin", "open_run", "run_iterations", "run_settings", "shown_settings"]

logger = logging.getLogger(__name__)
_FILE = "run.json"
_LAYOUT = 2  # of the bundles and of the modules that their configs name; runs before 2 say none
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

    Writes ``run.json``: seed, versions, digests of configuration and data, number of items, command, status, time, the
    notes, and as ``settings`` those values of the configuration that have a key. It travels with the results, so it
    names no file of the data, and no folder.

    Args:
        folder: the run folder; made if missing.
        config: what decides the result, plain values and dataclasses, grouped by what they are about: a mapping is a
            group of settings by key of the bundle. See
            :func:`~monai_essa.engines.folder.fingerprints.setting_fingerprints`.
        sections: items of the data list by section.
        seed: of all randomness in the run.
        notes: what a reader should see as it is, not as a digest: the stage, say. JSON values, and no file's name.

    Raises:
        FileExistsError: if the run there is finished.
        SystemExit: with code 0, if it is this very run, which was finished when torchrun or SLURM started it again.
        ValueError: if the run there has checkpoints and is of another configuration, data or seed, or of an earlier
            layout of the bundles, or run.json is damaged.
        FileNotFoundError: if a file of the data list is missing.

    Example:
        >>> import tempfile
        >>> record = open_run(tempfile.mkdtemp(), {"lr": 1.0e-3}, {"training": []}, seed=0)
        >>> finish_run(record.folder)
        >>> json.loads((record.folder / "run.json").read_text())["status"]
        'finished'
    """
    folder = Path(folder)
    identity = {"seed": seed, "data": datalist_fingerprint(sections), "config": setting_fingerprints(config)}
    if _goes_on(folder, identity):
        logger.info("going on with the unfinished run in %s", folder)
    elif process_rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        about = {"layout": _LAYOUT, "notes": dict(notes or {}), "settings": shown_settings(config)}
        begun = {"status": "running", "started": _now()}
        _write(folder, identity | about | _circumstances(sections) | begun)
    return RunRecord(folder, json_sha256(identity)[:16])


def finish_run(
    folder: str | Path, iterations: int | None = None, keep_resume: bool = False, epochs: int | None = None
) -> None:
    """Mark a run as finished, when its results are written: from now on its folder is left alone.

    Args:
        folder: the run folder.
        iterations: how many training steps it took.
        keep_resume: keep the files of ``resume/``, from which nothing resumes any more; by default they are deleted.
        epochs: how many there were; fewer than planned where patience ended them early.

    Raises:
        FileNotFoundError: if no run was opened in the folder.
    """
    folder = Path(folder)
    if not (folder / _FILE).exists():
        raise FileNotFoundError(f"{folder} holds no {_FILE}: open_run() must come before finish_run()")
    if process_rank() == 0:
        taken = {"iterations": iterations, "epochs": epochs}
        done = {name: count for name, count in taken.items() if count is not None}
        _write(folder, _read(folder) | done | {"status": "finished", "finished": _now()})
        if not keep_resume:
            delete_resume_files(folder / "resume")


def note_origin(folder: str | Path, origin: Mapping[str, Any] | None) -> None:
    """Write the origin of the weights that a run started from into its run.json, if there is a run in the folder.

    Args:
        folder: the run folder.
        origin: family, licence and authors of the base (:data:`monai_essa.licence.ORIGIN`); None writes nothing.
    """
    folder = Path(folder)
    if origin is not None and process_rank() == 0 and (folder / _FILE).exists():
        _write(folder, _read(folder) | {"base": dict(origin)})


def run_iterations(folder: str | Path) -> int:
    """Read how many training steps a finished run took.

    Args:
        folder: the run folder.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: if the run is not finished, or run.json is damaged.
    """
    path, record = _found(folder)
    if record["status"] != "finished" or "iterations" not in record:
        raise ValueError(f"{path} does not say how many iterations it took: name the folder of a finished run")
    return int(record["iterations"])


def run_settings(folder: str | Path) -> dict[str, Any]:
    """Read the settings that a finished run recorded, by key of its bundle.

    Args:
        folder: the run folder.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: if the run is not finished, or run.json is damaged.
    """
    path, record = _found(folder)
    if record["status"] != "finished":
        raise ValueError(f"{folder} holds an unfinished run: start it again with the same command to finish it")
    return dict(check_config_value(record.get("settings") or {}, f"{path}, field 'settings'"))


def _found(folder: str | Path) -> tuple[Path, dict[str, Any]]:
    """Return the path of run.json and what it says."""
    path = Path(folder) / _FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {_FILE}: give the folder of a finished run")
    return path, _read(Path(folder))


def shown_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run that have a key, as JSON has them.

    Args:
        config: as of :func:`open_run`.

    Returns:
        The values by key, of all groups together: a network by its class, a method by its class and its values.

    Example:
        >>> from monai_essa.methods import BitFit
        >>> shown_settings({"images": {"in_channels": 1}, "method": {"method": BitFit()}, "seeds": [0, 1]})
        {'in_channels': 1, 'method': {'class': 'BitFit', 'norms': False}}
    """
    groups = [group for group in config.values() if isinstance(group, Mapping)]
    settings = {str(key): value for group in groups for key, value in group.items()}
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=_shown))
    return plain


def _goes_on(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Tell whether the folder holds this very run, unfinished; raise if it holds one that would be lost."""
    if not (folder / _FILE).exists():
        return False
    there = _read(folder)
    if there["status"] == "finished":
        if started_again() and not _differing(there, identity):
            logger.info("%s is finished: nothing is left to do", folder)
            leave_processes()
            raise SystemExit(0)
        raise FileExistsError(f"{folder} holds a finished run: give another output folder, or delete this one")
    if there.get("layout") != _LAYOUT and has_resume_files(folder):
        raise ValueError(
            f"{folder} holds an unfinished run of another version of monai_essa, which cannot go on here: give another "
            "output folder, and take its config from a fresh 'monai-essa bundles copy'"
        )
    differ = _differing(there, identity)
    if differ and has_resume_files(folder):
        raise ValueError(
            f"{folder} holds an unfinished run with other values of {', '.join(differ)}: "
            "give another output folder, the old values to go on with it, or delete it"
        )
    return not differ


def _differing(there: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    differ = [name for name in ("seed", "data") if there[name] != identity[name]]
    names = sorted(set(there["config"]) | set(identity["config"]))
    return differ + [name for name in names if there["config"].get(name) != identity["config"].get(name)]


def _read(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        return {name: record[name] for name in ("seed", "data", "config", "status")} | record
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / _FILE} is damaged: give another output folder, or delete this one") from error


def _write(folder: Path, record: Mapping[str, Any]) -> None:
    write_text_whole(folder / _FILE, json.dumps(record, indent=2) + "\n")


def _shown(value: Any) -> Any:
    """Return what JSON does not have as what it has: a network by its class, a method by its class and its values."""
    if is_dataclass(value):
        return {"class": type(value).__name__, **{each.name: getattr(value, each.name) for each in fields(value)}}
    return value.tolist() if isinstance(value, (torch.Tensor, np.generic)) else type(value).__name__


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
