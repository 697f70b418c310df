# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The network and the method of a plan: told by the weight file, or the bundle's own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from monai_essa.efficiency.site_plan import Choice
from monai_essa.weights.weight_file import read_weight_file

__all__ = ["DEFAULT_NETWORK", "network_choice", "overlay_choices"]

DEFAULT_NETWORK = {"essa_ssa": "vit", "essa_segmentation": "unetr"}
_BY_TENSOR = {  # a part of a tensor's name that only this network has
    "swin_unetr": "relative_position_bias_table",
    "segresnet": "down_layers.",
    "transformer": ".attn.qkv.",
}


def network_choice(stage: str, pretrained: Path | None = None, wanted: str | None = None) -> Choice:
    """Choose the network: what the user says, what the weights are of, or the bundle's default.

    Args:
        stage: the bundle's name.
        pretrained: the weight file.
        wanted: ``vit``, ``unetr``, ``swin_unetr`` or ``segresnet``.

    Returns:
        One of these names.

    Raises:
        FileNotFoundError: if there is no such weight file.
        ValueError: if the file is damaged or of none of these networks, or the bundle has no such network.
    """
    if wanted == "vit" and stage == "essa_segmentation":
        raise ValueError("--network vit has no decoder to segment with; expected unetr, swin_unetr or segresnet")
    if wanted is not None:
        return Choice(wanted, f"--network {wanted}")
    if pretrained is None:
        return Choice(DEFAULT_NETWORK[stage], f"the default of {stage}")
    names = read_weight_file(pretrained).tensors
    kind = next((kind for kind, part in _BY_TENSOR.items() if _any_has(names, part)), None)
    if kind is None:
        raise ValueError(f"{pretrained}: expected weights of a ViT, UNETR, SwinUNETR or SegResNet; give --network")
    network = DEFAULT_NETWORK[stage] if kind == "transformer" else kind
    return Choice(network, f"the tensors of {pretrained.name} have its names")


def overlay_choices(stage: str, network: Choice, modality: Choice, pretrained: bool) -> list[Choice]:
    """List the config files over train.yaml.

    Args:
        stage: the bundle's name.
        network: of :func:`network_choice`.
        modality: ``ct``, ``mr`` or ``us``.
        pretrained: whether there is a weight file.

    Returns:
        File names without a folder, the last one strongest.
    """
    files = []
    if network.value != DEFAULT_NETWORK[stage]:
        files.append(Choice(f"network_{network.value}.yaml", network.reason))
    if not pretrained:
        why = "no pretrained weights, so every parameter has to learn: a method would freeze random tensors"
        files.append(Choice("method_full.yaml" if stage == "essa_ssa" else "start_random.yaml", why))
    elif network.value == "segresnet":
        files.append(Choice("method_lora_conv.yaml", "APLA needs attention, and a CNN has none"))
    if modality.value != "mr":
        files.append(Choice(f"intensity_{modality.value}.yaml", modality.reason))
    return files


def _any_has(names: Iterable[str], part: str) -> bool:
    return any(part in f".{name}" for name in names)
