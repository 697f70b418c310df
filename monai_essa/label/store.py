# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The adapters of one bundle, by site and version: training adds a version, undo goes back, none is deleted."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from monai_essa.files import write_text_whole, written_whole
from monai_essa.outside import Choice, Flag, ListOf, Nullable, Number, Record, Text, shown

__all__ = ["ADAPTER_NAME", "BASE", "LATEST", "SSA", "AdapterStore"]

BASE = "base"  # the bundle's own model.pt, without an adapter
LATEST = "latest"  # the adapter that was trained last, at any site
SSA = "ssa"  # stage of a version that adapts the encoder alone: trainings begin from it, inference never uses it
ADAPTER_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"

_COUNT = Number(0, 1e9, whole=True)
_SCORE = Nullable(Number(0, 1))
_HISTORY = ListOf(
    Record(
        {"version": Number(1, 1e6, whole=True)},
        {
            "stage": Choice([SSA]),
            "labels": _COUNT,
            "images": _COUNT,
            "epochs": _COUNT,
            "seconds": _COUNT,
            "dice": _SCORE,
            "loss": ListOf(Number()),
            "trained_on": ListOf(Text("[0-9a-f]{16}")),  # digests of the names of the volumes
            "promoted": Flag(),  # false: worse than the version before it; kept, but not used
            "held_out": Record({"volumes": _COUNT, "dice": _SCORE, "before": _SCORE}),
        },
    )
)
_logger = logging.getLogger(__name__)


class AdapterStore:
    """Keep adapter files as ``folder/SITE/001.safetensors`` and so on, with ``history.json`` beside them.

    A damaged history is read from its copy in ``folder/.backup``, or else made again from the intact adapter files. A
    version whose file is missing or damaged is passed over. :meth:`problems` reports both.

    Args:
        folder: made when the first adapter is added.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._told: set[str] = set()

    def sites(self) -> list[str]:
        """List the sites that have a version of any stage, in alphabetical order."""
        folders = {
            path.parent for pattern in ("history.json", "*.safetensors") for path in self.folder.glob(f"*/{pattern}")
        }
        names = sorted(path.name for path in folders if _is_name(path.name))
        return [name for name in names if self.versions(name)]

    def names(self) -> list[str]:
        """List the sites that have an adapter to segment with, the last trained first."""
        files = {name: file for name in self.sites() if (file := self.current(name)) is not None}
        return sorted(files, key=lambda name: files[name].stat().st_mtime_ns, reverse=True)

    def versions(self, name: str) -> list[dict[str, Any]]:
        """List what was trained and not undone, the newest version last."""
        return self._history(name)[0]

    def problems(self) -> list[str]:
        """Return one line for each damaged part of the store, which says what is used in its place."""
        return [line for name in self.sites() for line in self._problems(name)]

    def is_whole(self, name: str, version: int) -> bool:
        """Return whether the file of a version has the header of an adapter and the length that the header says."""
        return _is_adapter(self.file(name, version))

    def newest(self, name: str) -> dict[str, Any] | None:
        """Return the version that the next training of a site begins from; None for the base."""
        usable = self._usable(name)
        return usable[-1] if usable else None

    def current(self, name: str) -> Path | None:
        """Return the file that inference uses for a site; None if there is none, and for the base.

        Raises:
            ValueError: if the name is not a plain one.
        """
        version = self.current_version(name)
        return self.file(name, version["version"]) if version else None

    def current_version(self, name: str) -> dict[str, Any] | None:
        """Return the version that inference uses for a site; None if there is none, and for the base."""
        versions = [] if name == BASE else [entry for entry in self._usable(name) if entry.get("stage") != SSA]
        return versions[-1] if versions else None

    def file(self, name: str, version: int) -> Path:
        """Return the path of the file of a version."""
        return self._site(name) / f"{version:03d}.safetensors"

    def check_trainable(self, name: str) -> None:
        """Refuse what cannot be the name of an adapter.

        Raises:
            ValueError: if the name is not a plain one, or is ``base`` or ``latest``, which have a meaning in requests.
        """
        if name in (BASE, LATEST):
            raise ValueError(f"adapter {name!r}: expected another name; this one has a meaning in requests")
        self._site(name)

    def check_undoable(self, name: str) -> dict[str, Any]:
        """Return the version that :meth:`undo` would take back.

        Raises:
            ValueError: if nothing was trained.
        """
        newest = self.newest(name)
        if newest is None:
            raise ValueError(f"adapter {name!r}: nothing to undo; it has no trained version")
        return newest

    def add(self, name: str, file: Path, note: dict[str, Any]) -> int:
        """Copy an adapter file in as the newest version of a site.

        Args:
            name: name of the site.
            file: an adapter file.
            note: what the history says about it: its ``stage`` if that is :data:`SSA`, ``promoted`` as false if it must
                not be used, and so on.

        Returns:
            The version.

        Raises:
            ValueError: as :meth:`check_trainable` says, or if the file is not an adapter file or the note not valid.
        """
        self.check_trainable(name)
        if not _is_adapter(file):
            raise ValueError(f"{file} is damaged or no adapter file; train again")
        site = self._site(name)
        site.mkdir(parents=True, exist_ok=True)
        before = self.versions(name)
        taken = [number for number, _ in self._files(name)] + [entry["version"] for entry in before]
        version = max(taken, default=0) + 1
        (added,) = _HISTORY.check([{"version": version} | note], f"a version of {name}")
        with written_whole(self.file(name, version)) as temporary:
            shutil.copyfile(file, temporary)
        self._write(name, [*before, added])
        return version

    def undo(self, name: str) -> int:
        """Take back the newest version in use, whatever its stage; its file is kept.

        Returns:
            The version that the next training now begins from; 0 for the base.

        Raises:
            ValueError: if nothing was trained.
        """
        newest = self.check_undoable(name)
        self._write(name, [entry for entry in self.versions(name) if entry["version"] != newest["version"]])
        before = self.newest(name)
        return before["version"] if before else 0

    def _usable(self, name: str) -> list[dict[str, Any]]:
        problems = self._problems(name)
        for line in set(problems) - self._told:
            _logger.warning(line)
        self._told.update(problems)
        versions = [entry for entry in self.versions(name) if entry.get("promoted", True)]
        return [entry for entry in versions if self.is_whole(name, entry["version"])]

    def _problems(self, name: str) -> list[str]:
        versions, damage = self._history(name)
        lost = [entry["version"] for entry in versions if not self.is_whole(name, entry["version"])]
        lines = [f"adapter {name}: version {version} is missing or damaged and is passed over" for version in lost]
        return [*([damage] if damage else []), *lines]

    def _history(self, name: str) -> tuple[list[dict[str, Any]], str | None]:
        """Read the versions from the first intact source, and return a line if that is not ``history.json``."""
        path, files = self._site(name) / "history.json", self._files(name)
        if not path.exists() and not files:
            return [], None
        try:
            return _read_history(path), None
        except (OSError, ValueError) as error:
            damage = f"adapter {name}: history.json is missing or damaged ({shown(str(error))})"
        try:
            return _read_history(self._backup(name)), f"{damage}; its copy is used"
        except (OSError, ValueError):
            versions = [_described(number, file) for number, file in files if _is_adapter(file)]
            return versions, f"{damage}; the adapter files that are whole are used, without their notes"

    def _files(self, name: str) -> list[tuple[int, Path]]:
        files = [path for path in self._site(name).glob("*.safetensors") if path.stem.isdecimal()]
        return sorted((int(path.stem), path) for path in files)

    def _site(self, name: str) -> Path:
        if not _is_name(name):
            raise ValueError(f"adapter {shown(name)}: expected a name of letters, digits, '-' and '_'")
        return self.folder / name

    def _backup(self, name: str) -> Path:
        return self.folder / ".backup" / f"{name}.json"

    def _write(self, name: str, versions: list[dict[str, Any]]) -> None:
        text = json.dumps(versions, indent=2, allow_nan=False) + "\n"
        self._backup(name).parent.mkdir(exist_ok=True)
        write_text_whole(self._site(name) / "history.json", text)
        write_text_whole(self._backup(name), text)


def _is_name(name: str) -> bool:
    try:
        return bool(Text(ADAPTER_NAME, 64).check(name, "adapter"))
    except ValueError:
        return False


def _read_history(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    versions = _HISTORY.check(content, path.name)
    numbers = [entry["version"] for entry in versions]
    if numbers != sorted(set(numbers)):
        raise ValueError(f"expected each version once, in their order, got {shown(numbers)}")
    return versions


def _is_adapter(file: Path) -> bool:
    return _tensor_names(file) is not None


def _tensor_names(file: Path) -> list[str] | None:
    """Read the names in an adapter's header; None for a file that is missing, cut off or not an adapter."""
    try:
        with safe_open(file, framework="np") as content:
            return list(content.keys()) if "monai_essa" in (content.metadata() or {}) else None
    except (OSError, SafetensorError):
        return None


def _described(version: int, file: Path) -> dict[str, Any]:
    """Return the note of a version that its file tells: an adapter of the encoder alone is one of SSA."""
    names = _tensor_names(file) or []
    return {"version": version} | ({} if any(name.startswith("network:") for name in names) else {"stage": SSA})
