# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Where the bundles that ship with monai_essa lie on this computer."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

__all__ = ["bundle_folder", "list_bundles"]


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

        from monai_essa.bundle_folder import bundle_folder, list_bundles

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

        from monai_essa.bundle_folder import list_bundles

        print(*list_bundles(), sep=", ")
    """
    return tuple(_bundles())


def _bundles() -> dict[str, Path]:
    package = Path(__file__).resolve().parent
    # Only a wheel holds the bundles inside the package; an editable install and a checkout have them beside it.
    for root in (package / "bundles", package.parent / "bundles"):
        metadata = sorted(root.glob("*/configs/metadata.json"))
        if metadata:
            return {path.parent.parent.name: path.parent.parent for path in metadata}
    return {}
