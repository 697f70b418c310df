# Copyright (c) The monai_essa authors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.


"""The adapters of one bundle, by site, each with its versions: training adds one, undo goes back, none is deleted."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

__all__ = ["BASE", "AdapterStore"]

BASE = "base"  # the bundle's own model.pt, without an adapter
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class AdapterStore:
    """Adapter files in ``folder/SITE/001.safetensors`` and so on, and ``history.json`` beside them.

    Args:
        folder: made when the first adapter is added.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """List the sites that have an adapter, the last trained first."""
        files = [path for path in self.folder.glob("*/history.json") if self.versions(path.parent.name)]
        return [path.parent.name for path in sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True)]

    def versions(self, name: str) -> list[dict[str, Any]]:
        """List what was trained and not undone, the current version last."""
        path = self._site(name) / "history.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []

    def current(self, name: str) -> Path | None:
        """Find the file of the current version; None without one, and for the base.

        Raises:
            ValueError: if the name is no plain one.
        """
        if name == BASE:
            return None
        versions = self.versions(name)
        return self._site(name) / f"{versions[-1]['version']:03d}.safetensors" if versions else None

    def check_trainable(self, name: str) -> None:
        """Refuse what cannot be the name of an adapter.

        Raises:
            ValueError: if the name is no plain one, or the base's.
        """
        if name == BASE:
            raise ValueError(f"adapter {BASE!r}: expected another name, for this is the bundle's own model.pt")
        self._site(name)

    def add(self, name: str, file: Path, note: dict[str, Any]) -> int:
        """Copy an adapter file in as the newest version of a site.

        Args:
            name: of the site.
            file: an adapter file.
            note: about it; JSON values.

        Returns:
            The version.

        Raises:
            ValueError: if the name is no plain one, or the base's.
        """
        self.check_trainable(name)
        site = self._site(name)
        site.mkdir(parents=True, exist_ok=True)
        version = max((int(path.stem) for path in site.glob("*.safetensors")), default=0) + 1
        shutil.copyfile(file, site / f"{version:03d}.safetensors")
        self._write(name, [*self.versions(name), {"version": version} | note])
        return version

    def undo(self, name: str) -> int:
        """Go back to the version before the current one; its file stays.

        Returns:
            The version that is current now; 0 is the base.

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
