# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tell of a weight file alone which family it is and which network it needs, and write that as a config overlay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from monai_essa.anatomy.constructors import KEY_TENSORS, Constructor, constructor_of
from monai_essa.anatomy.key_maps import KEY_MAPS, KeyMap
from monai_essa.outside import shown
from monai_essa.weights.families import Family, card_of
from monai_essa.weights.family_files import families_alike, family_of, resolve_pretrained
from monai_essa.weights.file import WeightFile, read_weight_file

__all__ = ["WeightCheck", "check_weights", "overlay_text", "shipped_overlay"]

# VARIANT of the bundles' network_VARIANT.yaml.
_OVERLAYS = {"ViT": "vit", "SwinUNETR": "swin_unetr", "SegResNet": "segresnet"}
_USUAL = {
    "qkv_bias": True,
    "depths": [2, 2, 2, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "blocks_down": [1, 2, 2, 4],
}


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
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        family = self.family.name if self.family else f"one of {', '.join(self.alike)}" if self.alike else "unknown"
        yield f"{self.file}: keys '{self.key_map}', prefix '{self.prefix}', family {family}"
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.constructor.arguments.items())
        yield f"network: {self.constructor.network}({arguments})"
        yield from (f"note: {sentence}" for sentence in self.constructor.assumed)
        if self.family is not None:
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
    encoders = [(key_map, prefix, _shapes(file, key_map, prefix)) for key_map, prefix in found]
    for key_map, prefix, shapes in sorted(encoders, key=lambda each: -len(each[2])):
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
        ValueError: if no network of MONAI takes the file.

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
    head = [f"# Written by monai-essa weights check {check.file}{after}:", f"#   {command}"]
    head += [f"# {sentence}" for sentence in check.constructor.assumed]
    body = yaml.safe_dump(_values(check, overlay is not None), sort_keys=False, default_flow_style=None)
    return "\n".join([*head, body])


def _values(check: WeightCheck, has_overlay: bool) -> dict[str, Any]:
    arguments = dict(check.constructor.arguments)
    values: dict[str, Any] = {"pretrained": str(check.path)}
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


def _shapes(file: WeightFile, key_map: KeyMap, prefix: str) -> Mapping[str, torch.Size]:
    return {
        key_map.rename(name.removeprefix(prefix)): tensor.shape
        for name, tensor in file.tensors.items()
        if name.startswith(prefix)
    }
