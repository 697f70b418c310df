# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Networks from large to small, the one that given weights need, and what the configs must know of the images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from monai_essa.bundling.finished_run import finished_record
from monai_essa.outside import ListOf, Number, check_config_value, shown
from monai_essa.planning.choices import patch_choice, spacing_choice
from monai_essa.planning.site import ImageFacts
from monai_essa.weights.families import card_of
from monai_essa.weights.family_files import WeightCheck, check_weights
from monai_essa.weights.zoo_bundle import ZooBundle, read_zoo_bundle

__all__ = [
    "Images",
    "Network",
    "check_depth",
    "check_sides",
    "given_images",
    "given_network",
    "images_for",
    "network_ladder",
]

_KINDS = {"ViT": "vit", "SwinUNETR": "swin_unetr", "SegResNet": "segresnet"}
_STEP = 16  # pixels that the side of a 2-D image is a multiple of
_FLAT_SIDE = 224  # of a 2-D image: what public weights were trained on
_ENTRIES = {"axcodes", "spacing"}  # of the card of weights, which the configs have under the same key
_BUNDLE = "bundle:"
_WHOLE = Number(1, 4096, whole=True)
_USUAL_HEADS, _USUAL_WIDTH = 12, 16  # of MONAI's ViT and UNETR, where a config names none
_UNETR_LAYERS = 12


@dataclass(frozen=True)
class Network:
    """A network, from the encoder of self-supervision to the task.

    Attributes:
        name: for people, such as ``ViT-S``.
        kind: ``vit``, ``swin_unetr``, ``swin_unetr_v2`` or ``segresnet``; of an encoder that a user's overlay builds,
            ``described``, or ``described_cnn`` without attention.
        values: sizes of the encoder, by key of the configs.
        feature_size: width of the decoder, and of the network that learns from scratch.
        side: the longest side of a crop, in voxels.
        card: values of the configs that the weights ask for, such as their orientation.
        notes: lines about what no tensor of the weights tells.
        in_channels: that an encoder of the user reads; None: those of the images.
    """

    name: str
    kind: str
    values: Mapping[str, Any]
    feature_size: int
    side: int
    card: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    in_channels: int | None = None

    @property
    def method(self) -> str:
        """Return the PEFT method that fits it: APLA needs attention, and a CNN has none."""
        return "lora_conv" if self.kind in ("segresnet", "described_cnn") else "apla"

    @property
    def adds_tensors(self) -> bool:
        """Tell whether its method adds tensors, which TPP could pre-train."""
        return self.method != "apla"

    @property
    def overlay(self) -> tuple[str, ...]:
        """Return the overlay that builds it, none where it is the default of all bundles or an overlay of the user."""
        return () if self.kind == "vit" or self.described else (f"network_{self.kind}.yaml",)

    @property
    def described(self) -> bool:
        """Tell whether an overlay of the user builds it."""
        return self.kind.startswith("described")


@dataclass(frozen=True)
class Images:
    """What the configs need to know of the images.

    Attributes:
        spatial_dims: 2 or 3.
        spacing: in mm along R, A and S; None in 2-D.
        img_size: voxels of a crop, or pixels of a resized image.
        in_channels: of an image.
        intensity: overlay of the intensities; None for that of the bundle.
        labels: ids by name, from 0 on.
        several: whether an image may have several classes.
        further: values of the configs that the base asks for.
    """

    spatial_dims: int
    spacing: tuple[float, ...] | None
    img_size: tuple[int, ...]
    in_channels: int
    intensity: str | None
    labels: Mapping[str, int]
    several: bool = False
    further: Mapping[str, Any] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """Return the values that every stage shares."""
        size = {"img_size": list(self.img_size), "in_channels": self.in_channels}
        return size | ({} if self.spacing is None else {"spacing": list(self.spacing)}) | dict(self.further)

    @property
    def flat_overlay(self) -> tuple[str, ...]:
        """Return the overlay of 2-D images, none in 3-D."""
        return ("images_2d.yaml",) if self.spatial_dims == 2 else ()

    @property
    def intensity_overlay(self) -> tuple[str, ...]:
        """Return the overlay of the intensities, none where they are those of the bundle."""
        return () if self.intensity is None else (f"intensity_{self.intensity}.yaml",)


def network_ladder(task: str, spatial_dims: int) -> tuple[Network, ...]:
    """Return the networks that a study without given weights may use, from large to small.

    Args:
        task: ``segmentation`` or ``classification``.
        spatial_dims: 2 or 3.

    Example:
        >>> [network.name for network in network_ladder("classification", 2)]
        ['ViT-B, 224 pixels', 'ViT-S, 224 pixels', 'ViT-Ti, 128 pixels', 'ViT-mini, 64 pixels']
    """
    sides = (224, 224, 128, 64) if spatial_dims == 2 else (96, 96, 64, 48)
    unit = "pixels" if spatial_dims == 2 else "voxels"
    made = []
    for (name, values, width), side in zip(_SIZES, sides, strict=True):
        layers = {"num_layers": 4 if name == "ViT-mini" and task == "classification" else 12}
        made.append(Network(f"{name}, {side} {unit}", "vit", values | layers, width, side))
    return tuple(made)


def given_network(pretrained: str) -> Network:
    """Return the network that given weights need, by the shapes of their tensors.

    Args:
        pretrained: a weight file, ``family:NAME`` or ``bundle:DIR``, of which configs are read as data.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the weights are of no network that the bundles build.
    """
    bundle = read_zoo_bundle(pretrained.removeprefix(_BUNDLE)) if pretrained.startswith(_BUNDLE) else None
    check = check_weights(pretrained)
    built = check.constructor
    if built.network not in _KINDS:
        raise ValueError(
            f"--pretrained {shown(pretrained)} is of a {built.network}; expected a ViT, UNETR, SwinUNETR or SegResNet"
        )
    if check.refused:
        raise ValueError(f"--pretrained {shown(pretrained)}: {check.refused[0]}")
    arguments, width, notes = _arguments(pretrained, check, bundle)
    arguments |= _recorded(check.path, arguments)
    version = "_v2" if arguments.pop("use_v2", False) else ""
    family = {} if check.family is None else card_of(check.family)
    card = dict(family if bundle is None else bundle.card)
    name = f"{built.network} of {check.file}"
    side = _FLAT_SIDE if arguments.get("spatial_dims") == 2 else 96
    kind = f"{_KINDS[built.network]}{version}"
    return Network(name, kind, _sizes(check, arguments), width, side, card, notes)


def _recorded(path: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the heads of a ViT, which no tensor tells, where the file is the model.pt of a run of ours."""
    if "num_heads" not in arguments or "hidden_size" not in arguments or not (path.parent / "run.json").is_file():
        return {}
    settings = finished_record(path.parent).get("settings")
    heads = settings.get("num_heads") if isinstance(settings, Mapping) else None
    known = isinstance(heads, int) and heads > 0 and arguments["hidden_size"] % heads == 0
    return {"num_heads": heads} if known else {}


def check_depth(task: str, network: Network, values: Mapping[str, Any]) -> None:
    """Refuse a ViT that a UNETR cannot hold.

    Args:
        task: ``segmentation`` or ``classification``.
        network: that is planned.
        values: of the user.

    Raises:
        ValueError: if a segmentation would have another number of layers than 12.
    """
    layers = {**network.values, **values}.get("num_layers", _UNETR_LAYERS)
    if task == "segmentation" and network.kind == "vit" and layers != _UNETR_LAYERS:
        raise ValueError(
            f"num_layers {shown(layers)}: a UNETR has {_UNETR_LAYERS} layers; leave num_layers out, or give weights of "
            f"{_UNETR_LAYERS} layers"
        )


def check_sides(network: Network, images: Images) -> None:
    """Refuse crops whose deepest feature map a SwinUNETR could not normalise.

    Args:
        network: that is planned.
        images: with the sides of a crop.

    Raises:
        ValueError: if a side of a crop for a SwinUNETR is no multiple of 32, or all sides are 32.
    """
    sides = images.img_size
    if network.kind.startswith("swin") and (any(side % 32 for side in sides) or max(sides) < 64):
        fitting = [max(64, 32 * math.ceil(side / 32)) for side in sides]
        raise ValueError(f"img_size {list(sides)}: a SwinUNETR needs multiples of 32, not only 32; set {fitting}")


def images_for(task: str, facts: ImageFacts, network: Network, labels: Mapping[str, int], several: bool) -> Images:
    """Choose spacing, crop and intensities for a network.

    A segmentation sees crops; a classification sees the whole image, for which the spacing is made coarser. A 2-D image
    is resized as a whole.

    Args:
        task: ``segmentation`` or ``classification``.
        facts: of the scans.
        network: the network.
        labels: ids by name.
        several: whether an image may have several classes.
    """
    card = {key: check_config_value(value, "the card of the weights") for key, value in network.card.items() if value}
    further = {key: list(value) if key == "spacing" else value for key, value in card.items() if key in _ENTRIES}
    if facts.spatial_dims == 2:
        size = tuple(_side(length, network) for length in facts.extent)
        return Images(2, None, size, facts.channels, None, labels, several, _patch(task, network, size))
    if task == "classification":
        pairs = zip(facts.spacing, facts.extent, strict=True)
        spacing = [round(max(own, length / network.side), 2) for own, length in pairs]
    else:
        spacing = spacing_choice(facts, network.side).value
    spacing = [float(value) for value in further.pop("spacing", spacing)]
    kind = "unetr" if network.kind == "vit" else network.kind.removesuffix("_v2")
    size = tuple(patch_choice(facts, spacing, kind, network.side).value)
    further |= _patch(task, network, size) | _window(card)
    intensity = "ct" if "window" in card else facts.modality
    return Images(3, tuple(spacing), size, facts.channels, intensity, labels, several, further)


def given_images(images: Images, values: Mapping[str, Any]) -> Images:
    """Put the user's crop and spacing in the place of those that were chosen, so that a plan says what runs.

    Args:
        images: as they were chosen.
        values: of the user, by key of the configs.

    Raises:
        ValueError: if ``img_size`` or ``spacing`` are not positive numbers for each axis.
    """
    if "img_size" in values:
        sides = ListOf(Number(1, 4096, whole=True), longest=images.spatial_dims, shortest=images.spatial_dims)
        images = replace(images, img_size=tuple(sides.check(values["img_size"], "img_size")))
    if "spacing" in values and images.spacing is not None:
        lengths = ListOf(Number(0.001, 1000), longest=3, shortest=3)
        images = replace(images, spacing=tuple(map(float, lengths.check(values["spacing"], "spacing"))))
    return images


_SIZES: Sequence[tuple[str, dict[str, Any], int]] = (
    ("ViT-B", {"hidden_size": 768, "mlp_dim": 3072, "num_heads": 12}, 16),
    ("ViT-S", {"hidden_size": 384, "mlp_dim": 1536, "num_heads": 6}, 16),
    ("ViT-Ti", {"hidden_size": 192, "mlp_dim": 768, "num_heads": 6}, 8),
    ("ViT-mini", {"hidden_size": 96, "mlp_dim": 384, "num_heads": 4}, 8),
)


def _arguments(
    pretrained: str, check: WeightCheck, bundle: ZooBundle | None
) -> tuple[dict[str, Any], int, tuple[str, ...]]:
    """Return the arguments of the network, the width of its decoder, and lines about what nothing tells."""
    arguments, notes = dict(check.constructor.arguments), check.constructor.assumed
    width = int(arguments.get("init_filters", arguments.get("feature_size", _USUAL_WIDTH)))
    if bundle is not None and check.constructor.network == "ViT":  # no tensor of its encoder shows these two
        where = f"--pretrained {shown(pretrained)}, network_def"
        heads, own = bundle.argument("num_heads", _USUAL_HEADS), bundle.argument("feature_size", width)
        width = width if own is None else int(_WHOLE.check(own, f"{where}#feature_size"))
        if heads is not None:
            arguments["num_heads"], notes = _WHOLE.check(heads, f"{where}#num_heads"), ()
    return arguments, width, notes


def _sizes(check: WeightCheck, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the network as values of the configs, without those that the images tell."""
    kept = {key: value for key, value in arguments.items() if key not in ("spatial_dims", "in_channels")}
    if check.constructor.network == "ViT":
        bias = kept.pop("qkv_bias")
        return kept | ({} if bias else {"network_def#qkv_bias": False})
    usual = {"depths": [2, 2, 2, 2], "num_heads": [3, 6, 12, 24], "window_size": 7, "blocks_down": [1, 2, 2, 4]}
    renamed = {"init_filters": "feature_size"}
    levels = len(kept.get("blocks_down", ()))
    if levels not in (0, 4):
        kept["blocks_up"] = [1] * (levels - 1)  # as many blocks on each level as the usual four have
    return {
        renamed.get(key, f"network_def#{key}" if key in (*usual, "blocks_up") else key): value
        for key, value in kept.items()
        if usual.get(key) != value
    }


def _side(length: float, network: Network) -> int:
    least = 64 if network.kind.startswith("swin") else 2 * _STEP
    return min(network.side, max(least, _STEP * math.ceil(length / _STEP)))


def _patch(task: str, network: Network, size: Sequence[int]) -> dict[str, Any]:
    """Choose the patch of a ViT that is made here: the UNETR's 16 for a segmentation, else about eight along a side."""
    if network.kind != "vit" or "patch_size" in network.values:
        return {}
    if task == "segmentation":
        return {"patch_size": 16}
    return {"patch_size": int(np.clip(2 ** math.floor(math.log2(min(size) / 8)), 4, 16))}


def _window(card: Mapping[str, Any]) -> dict[str, Any]:
    if "window" not in card:
        return {}
    low, high = card["window"]
    return {"intensity#0#a_min": float(low), "intensity#0#a_max": float(high)}
