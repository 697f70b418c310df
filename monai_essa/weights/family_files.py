# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Find the file of a family in the user's folder, and tell the family of a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from monai_essa.anatomy.key_maps import KEY_MAPS, KeyMap
from monai_essa.outside import shown
from monai_essa.weights.families import FAMILIES, Family
from monai_essa.weights.file import WeightFile
from monai_essa.weights.zoo_bundle import ZooBundle, read_zoo_bundle

__all__ = ["FOLDER", "Pretrained", "family_named", "family_of", "families_alike", "key_maps_of", "resolve_pretrained"]

FOLDER = "MONAI_ESSA_WEIGHTS"
"""The environment variable that names the folder of public weight files."""
_FAMILY, _BUNDLE = "family:", "bundle:"


@dataclass(frozen=True)
class Pretrained:
    """A weight file, and where it comes from, as far as the caller said it.

    Attributes:
        path: of the file.
        family: that the caller named; None if the file has to tell it.
        bundle: of the model zoo that holds the file, or None.
    """

    path: Path
    family: Family | None = None
    bundle: ZooBundle | None = None


def resolve_pretrained(pretrained: str | Path) -> Pretrained:
    """Return the file that ``pretrained`` names: a path, or ``family:NAME`` or ``bundle:DIR`` for one in a folder.

    Nothing is downloaded: the folder is the one that the environment variable ``MONAI_ESSA_WEIGHTS`` names, and the
    file in it has the name that its authors gave it. A bundle is a folder of MONAI's model zoo, see
    :mod:`monai_essa.weights.zoo_bundle`.

    Args:
        pretrained: a path; ``family:NAME`` with a name of :data:`monai_essa.weights.families.FAMILIES`; or
            ``bundle:DIR``.

    Returns:
        The path, and the family or the bundle.

    Raises:
        FileNotFoundError: if the folder holds no file of the family; the message says where its authors publish it. Or
            if the bundle holds no models/model.pt.
        ValueError: if there is no such family, its file names are unknown, or the folder holds several of its files.

    Example:
        >>> resolve_pretrained("vit.pt").path.name
        'vit.pt'
    """
    if str(pretrained).startswith(_BUNDLE):
        bundle = read_zoo_bundle(str(pretrained).removeprefix(_BUNDLE))
        return Pretrained(bundle.weights, bundle=bundle)
    if not str(pretrained).startswith(_FAMILY):
        return Pretrained(Path(pretrained))
    family = family_named(str(pretrained).removeprefix(_FAMILY))
    names, where = family.published.files, family.published.where
    if not names:
        raise ValueError(
            f"{pretrained}: its authors' file names are unknown; give pretrained=FILE, a file from {where}"
        )
    folder = os.environ.get(FOLDER)
    found = [Path(folder, name) for name in names if folder is not None and Path(folder, name).is_file()]
    if not found:
        holds = f"{FOLDER} is not set" if folder is None else f"the folder {folder} ({FOLDER}) has none of its files"
        raise FileNotFoundError(
            f"{pretrained}: {holds}; its authors publish it at {where} as {' or '.join(names[:3])}: read the licence "
            f"there, put the file into a folder and name the folder by {FOLDER}; monai_essa downloads nothing"
        )
    if len(found) > 1:
        listed = ", ".join(path.name for path in found)
        raise ValueError(
            f"{pretrained}: the folder {folder} has {listed}; give pretrained=FILE, the path of one of them"
        )
    return Pretrained(found[0], family)


def family_named(name: str) -> Family:
    """Return the family of a name.

    Raises:
        ValueError: if there is none.

    Example:
        >>> family_named("voco").key_map
        'monai'
    """
    for family in FAMILIES:
        if family.name == name:
            return family
    names = [family.name for family in FAMILIES]
    near = get_close_matches(name, names, n=3) or names
    raise ValueError(f"family {shown(name)} is not known; give {', '.join(near)}, or the path of the file")


def key_maps_of(source: str | KeyMap) -> tuple[tuple[KeyMap, ...], Family | None]:
    """Return the grammars to try for a source, and the family if the source names one.

    Args:
        source: ``"auto"``, the name of a grammar or of a family, or a grammar.

    Raises:
        ValueError: if there is no such name, or no network of MONAI can take files of the family.

    Example:
        >>> key_maps_of("mae")[0][0].name
        'vit'
    """
    if isinstance(source, KeyMap):
        return (source,), None
    chosen = tuple(key_map for key_map in KEY_MAPS if source in ("auto", key_map.name))
    if chosen:
        return chosen, None
    family = next((family for family in FAMILIES if family.name == source), None)
    if family is None:
        grammars, names = (", ".join(repr(each.name) for each in rows) for rows in (KEY_MAPS, FAMILIES))
        raise ValueError(
            f"source must be 'auto', a KeyMap, one of the grammars {grammars} or of the families {names}, got "
            f"{shown(source)}"
        )
    if family.key_map is None:
        raise ValueError(f"source {source!r}: its files fit {family.networks[0]}")
    return tuple(key_map for key_map in KEY_MAPS if key_map.name == family.key_map), family


def family_of(file: WeightFile, key_map: KeyMap) -> Family | None:
    """Return the family that a file belongs to by its checksum or its name, or None: names of tensors do not tell it.

    Args:
        file: the file.
        key_map: the grammar of its names; a file of another grammar is not of the family, whatever its name.
    """
    for family in families_alike(key_map):
        digest = family.published.sha256
        if (digest and file.sha256.startswith(digest)) or file.name in family.published.files:
            return family
    return None


def families_alike(key_map: KeyMap) -> Sequence[Family]:
    """Return the families that name their tensors by a grammar."""
    return [family for family in FAMILIES if family.key_map == key_map.name]
