# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""The adapters of one bundle, by site, each with its versions: training adds one, undo goes back, none is deleted."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

__all__ = ["BASE", "LATEST", "SSA", "AdapterStore"]

BASE = "base"  # the bundle's own model.pt, without an adapter
LATEST = "latest"  # the adapter that was trained last, of whichever site
SSA = "ssa"  # stage of a version that adapts the encoder alone: trainings begin from it, inference never uses it
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class AdapterStore:
    """Adapter files in ``folder/SITE/001.safetensors`` and so on, and ``history.json`` beside them.

    Args:
        folder: made when the first adapter is added.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def sites(self) -> list[str]:
        """List the sites that have a version of any stage, in alphabetical order."""
        names = sorted(path.parent.name for path in self.folder.glob("*/history.json"))
        return [name for name in names if self.versions(name)]

    def names(self) -> list[str]:
        """List the sites that have an adapter to segment with, the last trained first."""
        files = {name: file for name in self.sites() if (file := self.current(name)) is not None}
        return sorted(files, key=lambda name: files[name].stat().st_mtime_ns, reverse=True)

    def versions(self, name: str) -> list[dict[str, Any]]:
        """List what was trained and not undone, the newest version last."""
        path = self._site(name) / "history.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []

    def newest(self, name: str) -> dict[str, Any] | None:
        """Find what the next training of a site begins from; None: the base."""
        versions = self.versions(name)
        return versions[-1] if versions else None

    def current(self, name: str) -> Path | None:
        """Find the file that inference uses for a site; None without one, and for the base.

        Raises:
            ValueError: if the name is no plain one.
        """
        versions = [] if name == BASE else [entry for entry in self.versions(name) if entry.get("stage") != SSA]
        return self.file(name, versions[-1]["version"]) if versions else None

    def file(self, name: str, version: int) -> Path:
        """Name the file of a version."""
        return self._site(name) / f"{version:03d}.safetensors"

    def check_trainable(self, name: str) -> None:
        """Refuse what cannot be the name of an adapter.

        Raises:
            ValueError: if the name is no plain one, or one of the two that a request for an inference may give.
        """
        if name in (BASE, LATEST):
            raise ValueError(f"adapter {name!r}: expected another name; this one has a meaning in requests")
        self._site(name)

    def add(self, name: str, file: Path, note: dict[str, Any]) -> int:
        """Copy an adapter file in as the newest version of a site.

        Args:
            name: of the site.
            file: an adapter file.
            note: about it, with its ``stage`` if that is :data:`SSA`; JSON values.

        Returns:
            The version.

        Raises:
            ValueError: as :meth:`check_trainable` says.
        """
        self.check_trainable(name)
        site = self._site(name)
        site.mkdir(parents=True, exist_ok=True)
        version = max((int(path.stem) for path in site.glob("*.safetensors")), default=0) + 1
        shutil.copyfile(file, self.file(name, version))
        self._write(name, [*self.versions(name), {"version": version} | note])
        return version

    def undo(self, name: str) -> int:
        """Go back to the version before the newest one, whatever its stage; its file stays.

        Returns:
            The version that is the newest now; 0 is the base.

        Raises:
            ValueError: if nothing was trained.
        """
        versions = self.versions(name)
        if not versions:
            raise ValueError(f"adapter {name!r}: nothing to undo; it has no trained version")
        self._write(name, versions[:-1])
        return versions[-2]["version"] if len(versions) > 1 else 0

    def _site(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"adapter {name!r}: expected a name of letters, digits, '-' and '_'")
        return self.folder / name

    def _write(self, name: str, versions: list[dict[str, Any]]) -> None:
        path = self._site(name) / "history.json"
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, path)
