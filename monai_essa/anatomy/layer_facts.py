# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Settings of layers that change what they compute although no tensor shows it, such as heads, windows and epsilons."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch.nn as nn
from monai.networks.layers import DropPath, SkipConnection
from torch.nn.modules.dropout import _DropoutNd

__all__ = ["layer_fact", "network_fact"]

# Attributes of torch's and MONAI's modules. Left out is what matters in training only (dropout, momentum), what does
# not change the function (checkpointing, flash attention, inplace) and what follows from shapes.
_TELLING = (
    *("num_heads", "dim_head", "causal", "window_size", "shift_size", "patch_size"),
    *("eps", "num_groups", "track_running_stats"),
    *("kernel_size", "stride", "padding", "output_padding", "dilation", "groups", "padding_mode"),
    *("negative_slope", "alpha", "beta", "threshold", "lambd", "approximate", "lower", "upper", "min_val", "max_val"),
    *("scale_factor", "size", "mode", "align_corners", "output_size", "ceil_mode", "count_include_pad"),
    *("proj_type", "pattern", "axes_lengths", "start_dim", "end_dim", "upscale_factor"),
)
# The same for a whole network: SwinUNETR normalises the feature maps of its encoder, ResNet pools, or they do not.
_TELLING_OF_NETWORK = ("normalize", "no_max_pool")
# Modules that compute nothing in eval mode.
_NEUTRAL = (nn.Identity, _DropoutNd, DropPath)
# Modules that only hold others. Which class holds them differs between a network and the encoder cut out of it.
_HOLDERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, SkipConnection)


def layer_fact(module: nn.Module) -> str:
    """Return the class and the settings of a layer as text; empty if it computes nothing of its own in eval mode.

    Example:
        >>> layer_fact(nn.LayerNorm(4))
        'LayerNorm eps=1e-05'
    """
    if isinstance(module, _NEUTRAL):
        return ""
    if isinstance(module, _HOLDERS):
        order = [name for name, child in module.named_children() if not isinstance(child, _NEUTRAL)]
        # A numbered sequence runs in the order of its numbers; MONAI's ADN runs in the order of its argument.
        named = isinstance(module, nn.Sequential) and len(order) > 1 and not all(name.isdigit() for name in order)
        return f"order={','.join(order)}" if named else ""
    # All classes of batch norms compute the same in eval mode.
    kind = re.sub(r"^(Sync)?BatchNorm(\dd)?$", "BatchNorm", type(module).__name__)
    return f"{kind} {_settings(module, _TELLING)}".rstrip()


def network_fact(network: nn.Module) -> str:
    """Return the settings that concern the whole network as text, or an empty text."""
    return _settings(network, _TELLING_OF_NETWORK)


def _settings(module: nn.Module, names: Iterable[str]) -> str:
    values = {name: _text(vars(module).get(name)) for name in names}
    return " ".join(f"{name}={text}" for name, text in values.items() if text)


def _text(value: Any) -> str:
    """Write a plain setting; return an empty text for None and for other objects."""
    if isinstance(value, Mapping):
        return ",".join(f"{name}:{_text(item)}" for name, item in sorted(value.items()))
    if isinstance(value, (tuple, list)):
        return ",".join(_text(item) for item in value)
    if isinstance(value, np.generic):
        value = value.item()
    return str(value) if isinstance(value, (bool, int, float, str)) else ""
