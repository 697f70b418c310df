# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What an encoder computes with beside its tensors: heads, windows, epsilons, strides, activations, the order of parts.

Two encoders with equal tensors are the same function only if these agree. They are read off the modules, path by path,
so that there is no table of networks to keep: a ViT and the ViT within a UNETR say the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch.nn as nn
from monai.networks.layers import DropPath, SkipConnection
from torch.nn.modules.dropout import _DropoutNd

from monai_essa.methods.method import AdapterLayer
from monai_essa.network_parts import dead_parameters, encoder_prefix, part_of
from monai_essa.networks.position_embedding import kept_grid

__all__ = ["encoder_facts", "position_grid"]

# Attributes that change what a module of torch or MONAI computes although no tensor shows it. What only matters in
# training (dropout, momentum), costs no change of the function (checkpointing, flash attention, inplace) or follows
# from shapes is left out.
_TELLING = (
    *("num_heads", "dim_head", "causal", "window_size", "shift_size", "patch_size"),
    *("eps", "num_groups", "track_running_stats"),
    *("kernel_size", "stride", "padding", "output_padding", "dilation", "groups", "padding_mode"),
    *("negative_slope", "alpha", "beta", "threshold", "lambd", "approximate", "lower", "upper", "min_val", "max_val"),
    *("scale_factor", "size", "mode", "align_corners", "output_size", "ceil_mode", "count_include_pad"),
    *("proj_type", "pattern", "axes_lengths", "start_dim", "end_dim", "upscale_factor"),
)
# The same for a whole network: SwinUNETR normalises the maps that its encoder hands over, or not.
_TELLING_OF_NETWORK = ("normalize",)
# Modules that compute nothing in eval mode.
_NEUTRAL = (nn.Identity, _DropoutNd, DropPath)
# Modules that only hold others. Which class holds them differs between a network and the encoder cut out of it.
_HOLDERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, SkipConnection)


def encoder_facts(network: nn.Module) -> dict[str, str]:
    """Return what the layers of the encoder are, by their path within the encoder.

    Args:
        network: a MONAI network, plain, adapted or lean: all three give the same.

    Returns:
        For each layer its class and settings; what concerns the whole network stands under ``network CLASS``.

    Example:
        >>> from monai.networks.nets import ViT
        >>> net = ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4)
        >>> encoder_facts(net)["blocks.0.norm1"]
        'LayerNorm eps=1e-05'
    """
    prefix = encoder_prefix(network)
    facts = {}
    for path, module in _plain_modules(network, "", dead_parameters(network)):
        name = path.removeprefix(prefix)
        inside = path.startswith(prefix) and name and part_of(network, f"{path}.") == "encoder"
        # Without a tensor and right below the encoder stands what the decoder shares, such as SegResNet's activation.
        if inside and ("." in name or module.state_dict()) and (fact := _fact(module)):
            facts[name] = fact
    whole = _settings(network, _TELLING_OF_NETWORK)
    return facts | ({f"network {type(network).__name__}": whole} if whole else {})


def position_grid(network: nn.Module, tokens: int) -> list[int]:
    """Return the grid of position embeddings, or the number of tokens alone where a network does not keep its grid."""
    return list(kept_grid(network) or (tokens,))


def _plain_modules(module: nn.Module, path: str, dead: frozenset[str]) -> Iterator[tuple[str, nn.Module]]:
    """Walk the modules as they were before adapt, without those that no forward pass reaches."""
    plain = module.plain() if isinstance(module, AdapterLayer) else module
    if path:
        yield path, plain
    for name, child in plain.named_children():
        inner = f"{path}.{name}" if path else name
        own = [f"{inner}.{parameter}" for parameter, _ in child.named_parameters()]
        if not own or not dead.issuperset(own):
            yield from _plain_modules(child, inner, dead)


def _fact(module: nn.Module) -> str:
    if isinstance(module, _NEUTRAL):
        return ""
    if isinstance(module, _HOLDERS):
        order = [name for name, child in module.named_children() if not isinstance(child, _NEUTRAL)]
        # A numbered sequence is in the order of its numbers; MONAI's ADN is in that of its argument.
        named = isinstance(module, nn.Sequential) and len(order) > 1 and not all(name.isdigit() for name in order)
        return f"order={','.join(order)}" if named else ""
    # In eval mode, the classes of a batch norm are one.
    kind = re.sub(r"^(Sync)?BatchNorm(\dd)?$", "BatchNorm", type(module).__name__)
    return f"{kind} {_settings(module, _TELLING)}".rstrip()


def _settings(module: nn.Module, names: Iterable[str]) -> str:
    values = {name: _text(vars(module).get(name)) for name in names}
    return " ".join(f"{name}={text}" for name, text in values.items() if text)


def _text(value: Any) -> str:
    """Write a plain setting, "" for None and for what is no setting."""
    if isinstance(value, Mapping):
        return ",".join(f"{name}:{_text(item)}" for name, item in sorted(value.items()))
    if isinstance(value, (tuple, list)):
        return ",".join(_text(item) for item in value)
    if isinstance(value, np.generic):
        value = value.item()
    return str(value) if isinstance(value, (bool, int, float, str)) else ""
