# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Which file a family is in the user's folder, which family a file is, and which network it needs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import yaml

from monai_essa.anatomy.constructors import KEY_TENSORS, Constructor, constructor_of
from monai_essa.anatomy.key_maps import KEY_MAPS, KeyMap
from monai_essa.outside import check_config_value, printable, shown
from monai_essa.weights.families import FAMILIES, Family, card_of
from monai_essa.weights.file import WeightFile, read_weight_file
from monai_essa.weights.zoo_bundle import ZooBundle, read_zoo_bundle

__all__ = [
    "FOLDER",
    "Pretrained",
    "WeightCheck",
    "check_weights",
    "families_alike",
    "family_named",
    "family_of",
    "key_maps_of",
    "overlay_text",
    "resolve_pretrained",
    "shipped_overlay",
]

FOLDER = "MONAI_ESSA_WEIGHTS"
"""The environment variable that names the folder of public weight files."""
_FAMILY, _BUNDLE = "family:", "bundle:"
_SHOWN = 4  # families of files that look the same; `monai-essa weights list` has all
_OVERLAYS = {"ViT": "vit", "SwinUNETR": "swin_unetr", "SegResNet": "segresnet"}  # VARIANT of network_VARIANT.yaml
_USUAL = {  # what these overlays build
    "qkv_bias": True,
    "depths": [2, 2, 2, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "blocks_down": [1, 2, 2, 4],
}


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


@dataclass(frozen=True)
class WeightCheck:
    """What a weight file says about itself.

    Attributes:
        file: name of the file.
        path: of the file.
        key_map: grammar of its names.
        prefix: of the encoder's names in the file.
        family: if the file's name or checksum tells it.
        alike: names of the families whose files look the same.
        constructor: the network that it needs.
        refused: why no network of MONAI takes it; empty if one does.
    """

    file: str
    path: Path
    key_map: str
    prefix: str
    family: Family | None
    alike: tuple[str, ...]
    constructor: Constructor
    refused: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join(printable(line) for line in self._lines())

    def _lines(self) -> Iterator[str]:
        alike = f"one of {', '.join(self.alike)}" if len(self.alike) <= _SHOWN else f"one of {len(self.alike)} alike"
        family = self.family.name if self.family else alike if self.alike else "unknown"
        yield f"{self.file}: keys '{self.key_map}', prefix '{self.prefix}', family {family}"
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.constructor.arguments.items())
        yield f"network: {self.constructor.network}({arguments})"
        yield from (f"note: {sentence}" for sentence in self.constructor.assumed)
        if self.family is not None:
            if self.family.caution is not None:
                yield f"note: {self.family.caution}"
            licence = self.family.licence
            yield f"licence: {licence.name or 'unknown'}{f' ({licence.url})' if licence.url else ''}"
            yield from (f"cite: {work}" for work in self.family.published.cite)
            yield from (f"expects {fact}: {value}" for fact, value in card_of(self.family).items())
            yield f"checked with the real file: {self.family.checked}"
        yield from (f"refused: {reason}" for reason in self.refused)


def check_weights(path: str | Path) -> WeightCheck:
    """Recognise a weight file and read the network that it needs from its shapes.

    Args:
        path: the file, or ``family:NAME``.

    Returns:
        What was found. Whether the file fits is for :func:`monai_essa.load_weights` to say.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read, or holds no encoder that is known.

    Example:
        >>> import tempfile
        >>> from monai.networks.nets import ViT
        >>> path = Path(tempfile.mkdtemp()) / "vit.pt"
        >>> torch.save(ViT(1, 32, 16, hidden_size=64, mlp_dim=96, num_layers=2, num_heads=1).state_dict(), path)
        >>> check_weights(path).constructor.arguments["mlp_dim"]
        96
    """
    pretrained = resolve_pretrained(path)
    file = read_weight_file(pretrained.path)
    found = [(key_map, prefix) for key_map in KEY_MAPS for prefix in _prefixes(file, key_map)]
    for key_map, prefix in sorted(found, key=lambda each: _names_and_renamed(file, *each), reverse=True):
        shapes = _shapes(file, key_map, prefix)
        constructor = constructor_of(shapes)
        if constructor is not None:
            family = pretrained.family or family_of(file, key_map)
            alike = tuple(each.name for each in families_alike(key_map))
            refused = tuple(dict.fromkeys(reason for name in shapes if (reason := key_map.why_refused(name))))
            return WeightCheck(file.name, pretrained.path, key_map.name, prefix, family, alike, constructor, refused)
    raise ValueError(
        f"{file.name}: none of its {len(file.tensors)} tensors is of an encoder that is known; it holds "
        f"{shown(next(iter(file.tensors)))}; `monai-essa weights list` names the families, and "
        "docs/how-to/own-encoder.md describes an encoder of your own"
    )


def shipped_overlay(check: WeightCheck) -> str | None:
    """Return VARIANT of the bundles' network_VARIANT.yaml that builds the file's network; None if none does."""
    return _OVERLAYS.get(check.constructor.network)


def overlay_text(check: WeightCheck, command: str) -> str:
    """Return the overlay for a bundle's train.yaml that makes its network take the file.

    Args:
        check: of the file.
        command: how the overlay is used, for its comment.

    Raises:
        ValueError: if no network of MONAI takes the file, or its name would be code in a config.

    Example:
        >>> print(overlay_text(WeightCheck("a.pt", Path("a.pt"), "monai", "", None, (), Constructor("ViT")), "run"))
        # Written by monai-essa weights check a.pt; add it after network_vit.yaml:
        #   run
        pretrained: a.pt
        <BLANKLINE>
    """
    if check.refused:
        raise ValueError(f"{check.file}: {check.refused[0]}; no overlay was written")
    overlay = shipped_overlay(check)
    after = f"; add it after network_{overlay}.yaml" if overlay else ""
    head = [f"# Written by monai-essa weights check {printable(check.file)}{after}:", f"#   {printable(command)}"]
    head += [f"# {sentence}" for sentence in check.constructor.assumed]
    values = _values(check, overlay is not None)
    flow = None if any(isinstance(value, dict | list) for value in values.values()) else False
    body = yaml.safe_dump(values, sort_keys=False, default_flow_style=flow)  # lists and leaves in one line, keys never
    return "\n".join([*head, body])


def _values(check: WeightCheck, has_overlay: bool) -> dict[str, Any]:
    arguments = dict(check.constructor.arguments)
    values: dict[str, Any] = {"pretrained": check_config_value(str(check.path), "the path of the weight file")}
    for name in ("spatial_dims", "in_channels"):
        if name in arguments:
            values[name] = arguments.pop(name)
    if check.family is not None and check.family.card.axcodes is not None:
        values["axcodes"] = check.family.card.axcodes
    if check.family is not None and check.family.card.spacing is not None:
        values["spacing"] = list(check.family.card.spacing)
    if has_overlay:
        renamed = {"init_filters": "feature_size"}
        if "num_layers" not in arguments:  # of a ViT the heads are a value of the bundle, of a Swin an argument
            return values | {
                renamed.get(name, f"network_def#{name}" if name in _USUAL else name): value
                for name, value in arguments.items()
                if _USUAL.get(name) != value
            }
        qkv_bias = arguments.pop("qkv_bias")
        return values | arguments | ({} if qkv_bias else {"network_def#qkv_bias": False})
    target = f"monai.networks.nets.{check.constructor.network}"
    shared = {name: f"@{name}" for name in ("spatial_dims", "in_channels") if name in values}
    network = {"_target_": target} | shared | arguments
    return values | {
        "network_def": network,
        "objective": {"_target_": "monai_essa.pretext.SimMIM", "encoder": "@network", "mask_unit": "@mask_unit"},
    }


def _prefixes(file: WeightFile, key_map: KeyMap) -> Iterator[str]:
    """Yield what stands before the names of an encoder in a file, found by tensors that only encoders have."""
    seen = set()
    for name in file.tensors:
        parts = name.split(".")
        for start in range(len(parts)):
            prefix = "".join(f"{part}." for part in parts[:start])
            if prefix not in seen and key_map.rename(".".join(parts[start:])) in KEY_TENSORS:
                seen.add(prefix)
                yield prefix


def _names_and_renamed(file: WeightFile, key_map: KeyMap, prefix: str) -> tuple[int, int]:
    """Count the names under a prefix, and those that a grammar spells otherwise: of two that fit, it is the one."""
    names = [name.removeprefix(prefix) for name in file.tensors if name.startswith(prefix)]
    return len(names), sum(key_map.rename(name) != name for name in names)


def _shapes(file: WeightFile, key_map: KeyMap, prefix: str) -> Mapping[str, torch.Size]:
    return {
        key_map.rename(name.removeprefix(prefix)): tensor.shape
        for name, tensor in file.tensors.items()
        if name.startswith(prefix)
    }
