# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The control of a pretrained start: the tensors that a method adds, drawn at random."""

from __future__ import annotations

import torch
import torch.nn as nn

from monai_essa.adaptation import adaptation_of
from monai_essa.data.keyed import key
from monai_essa.methods.apla import APLALinear

__all__ = ["initialise"]

_STD = 0.02
_INITIALISATIONS = ("method", "random")


def initialise(network: nn.Module, initialisation: str = "method", start: str = "encoder", seed: int = 0) -> nn.Module:
    r"""Begin with the method's own start, or draw every tensor that the method adds. In place.

    A method starts at the base: B of LoRA is zero. Target parameter pre-training (arXiv 2408.15011) replaces that
    start; ``"random"`` is its control that has seen no image:

    .. math:: \theta \sim N(c, 0.02^2), \quad c = 1 \text{ for a factor, which its method starts at one; else } 0

    Each tensor has a generator of its own, keyed by the seed and its name.

    Args:
        network: an adapted network.
        initialisation: ``"method"`` changes nothing; ``"random"`` draws.
        start: of the supervised stage; an adapter file brings its tensors along, so after ``"adapter"`` none is drawn.
        seed: the seed of the run.

    Returns:
        The same network.

    Raises:
        ValueError: if ``initialisation`` is neither, is ``"random"`` after ``start`` ``"adapter"``, or the methods add
            no tensor (APLA and BitFit train tensors of the base).

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa import adapt
        >>> from monai_essa.methods import LoRA
        >>> net = adapt(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), LoRA())
        >>> bool(initialise(net, "random").blocks[0].attn.qkv.lora_B["q"].any())
        True
    """
    if initialisation not in _INITIALISATIONS:
        raise ValueError(f"initialisation must be one of {', '.join(_INITIALISATIONS)}, got {initialisation!r}")
    if initialisation == "method":
        return network
    if start == "adapter":
        raise ValueError("initialisation 'random' would overwrite the adapter file's tensors: set start: encoder")
    added = _added_parameters(network)
    if not added:
        methods = ", ".join(type(method).__name__ for method in adaptation_of(network).methods)
        raise ValueError(
            f"initialisation 'random' draws the tensors that a method adds, and {methods} adds none: "
            "set initialisation: method, or take LoRA, AdaptFormer, VPT or SSF"
        )
    for name, parameter in added.items():
        _draw(parameter, torch.Generator().manual_seed(key(seed, "initialisation", name)))
    return network


def _added_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    record = adaptation_of(network)
    added = record.changing - record.base.keys()
    # The rows of APLA are pretrained values that sit in a tensor of their own: nothing is added.
    copies = {
        f"{path}.{name}"
        for path, layer in network.named_modules()
        if isinstance(layer, APLALinear)
        for name, _ in layer.named_parameters(recurse=False)
    }
    return {name: parameter for name, parameter in network.named_parameters() if name in added - copies}


@torch.no_grad()
def _draw(parameter: nn.Parameter, generator: torch.Generator) -> None:
    centre = 1.0 if bool((parameter == 1).all()) else 0.0
    parameter.copy_(torch.normal(centre, _STD, parameter.shape, generator=generator))
