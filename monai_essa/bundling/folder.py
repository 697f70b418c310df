# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Find bundles, their configs and overlays, and check that configs name what exists."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from monai_essa.outside import printable, shown

__all__ = ["OVERLAYS", "bundle_folder", "check_configs", "find_bundle", "find_config", "list_bundles", "overlay_names"]

# In the order in which they are merged: a network may ask for its objective.
OVERLAYS = ("network", "images", "method", "objective", "intensity", "start")  # a later one wins
_SUFFIXES = (".yaml", ".yml", ".json")


def bundle_folder(name: str) -> Path:
    """
    Find a bundle that ships with monai_essa, in a wheel, an editable install and a checkout alike.

    Args:
        name: the bundle's name, as ``list_bundles`` gives it.

    Returns:
        The absolute path of the bundle's folder: the ``bundle_root`` of ``python -m monai.bundle run``.
        It may be read-only: give ``output_dir`` a folder of your own.

    Raises:
        ValueError: if no bundle of that name ships with this installation.

    Example::

        from monai_essa.bundling.folder import bundle_folder, list_bundles

        for name in list_bundles():
            print(bundle_folder(name) / "configs" / "metadata.json")
    """
    bundles = _bundles()
    if name not in bundles:
        close = get_close_matches(name, bundles, n=3)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        available = ", ".join(bundles) or "none, reinstall monai_essa"
        raise ValueError(f"no bundle is named {name!r}; {hint}available bundles: {available}")
    return bundles[name]


def list_bundles() -> tuple[str, ...]:
    """
    List the bundles that ship with monai_essa.

    Returns:
        Their names in alphabetical order, each a valid argument of ``bundle_folder``.

    Example::

        from monai_essa.bundling.folder import list_bundles

        print(*list_bundles(), sep=", ")
    """
    return tuple(_bundles())


def find_bundle(bundle: str | Path) -> Path:
    """Give the folder of a bundle.

    Args:
        bundle: a folder with ``configs`` in it, or the name of a bundle that ships with monai_essa.

    Returns:
        The folder.

    Raises:
        ValueError: if it is neither.
    """
    if (Path(bundle) / "configs").is_dir():
        return Path(bundle)
    if Path(bundle).exists():
        raise ValueError(f"{bundle} is no bundle: expected a folder with a folder 'configs' in it")
    return bundle_folder(str(bundle))


def find_config(bundle: str | Path, names: Sequence[str]) -> Path:
    """Give the first of some configs that a bundle has.

    Args:
        bundle: as in :func:`find_bundle`.
        names: without suffix, the preferred one first.

    Returns:
        The YAML or JSON file.

    Raises:
        ValueError: if the bundle has none of them.
    """
    configs = find_bundle(bundle) / "configs"
    for name in names:
        for suffix in _SUFFIXES:
            if (configs / f"{name}{suffix}").is_file():
                return configs / f"{name}{suffix}"
    raise ValueError(f"{configs} holds no {' or '.join(names)} config ({', '.join(_SUFFIXES)})")


def overlay_names(bundle: Path, kind: str) -> list[str]:
    """Name the overlays of a kind that a bundle has.

    Args:
        bundle: its folder.
        kind: one of :data:`OVERLAYS`.

    Returns:
        For example ``["swin_unetr", "unetr"]`` for ``network_swin_unetr.yaml`` and ``network_unetr.yaml``.
    """
    return sorted(path.stem.removeprefix(f"{kind}_") for path in (bundle / "configs").glob(f"{kind}_*.yaml"))


def check_configs(files: Any) -> None:
    """Check that config files are there and hold mappings, which MONAI's parser takes for granted.

    Args:
        files: one path or several, also as text with commas, as MONAI takes them; None for none.

    Raises:
        FileNotFoundError: if one is no regular file.
        ValueError: if one is no text, neither YAML nor JSON, or no mapping.
    """
    if isinstance(files, str) and "," in files and not Path(files).is_file():
        files = files.split(",")
    for file in files if isinstance(files, (list, tuple)) else () if files is None else (files,):
        if not isinstance(file, (str, Path)):
            raise ValueError(f"{shown(file)}: expected the path of a config")
        if not Path(file).is_file():
            raise FileNotFoundError(f"{printable(str(file))}: no such config; paths are relative to the current folder")
        content = _content(file)
        if not isinstance(content, dict):
            raise ValueError(f"{file}: expected a config, which is a mapping, got {shown(content)}; correct the file")


def _bundles() -> dict[str, Path]:
    package = Path(__file__).resolve().parents[1]
    # Only a wheel holds the bundles inside the package; an editable install and a checkout have them beside it.
    for root in (package / "bundles", package.parent / "bundles"):
        metadata = sorted(root.glob("*/configs/metadata.json"))
        if metadata:
            return {path.parent.parent.name: path.parent.parent for path in metadata}
    return {}


def _content(file: str | Path) -> Any:
    from monai.bundle import ConfigParser

    try:
        return ConfigParser.load_config_file(file)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = printable(" ".join(str(error).split()))
        raise ValueError(f"{file}: expected a config in YAML or JSON: {reason}; correct the file") from error
