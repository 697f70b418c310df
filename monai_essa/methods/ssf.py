# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""SSF: scale and shift the output of every layer of the encoder.

Lian et al., "Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning", arXiv 2210.08823.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn
from torch.nn.modules.batchnorm import _NormBase

from monai_essa.anatomy.parts import encoder_layers, undone_layers
from monai_essa.methods.method import adopt, original_of

__all__ = ["SSF", "SSFLayer"]

# _NormBase is torch's base of batch and instance norms.
_KINDS = (nn.Linear, nn.Conv2d, nn.Conv3d, nn.LayerNorm, nn.GroupNorm, _NormBase)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)


@dataclass(frozen=True)
class SSF:
    r"""Scaling and shifting features (arXiv 2210.08823, section 3) after every layer of the encoder.

    .. math:: y \leftarrow \gamma \odot y + \beta

    with a :math:`\gamma` and a :math:`\beta` for each output channel of every linear layer, 2-D or 3-D convolution and
    norm that has parameters. In a ViT these are the places of the official code: the patch embedding, qkv, W_O, both
    layers of the MLP and all norms, including the final one. Everything else stays frozen, including the running
    statistics of batch norms.

    Two things differ from the official code. :math:`\gamma` and :math:`\beta` start at 1 and 0, and not at
    :math:`N(1, 0.02^2)` and :math:`N(0, 0.02^2)`, so that the network starts at its base. A layer without bias has no
    :math:`\beta`, so that merging does not change keys; MONAI builds qkv without bias unless ``qkv_bias=True``.
    Convolutions whose scale and shift are undone by an instance norm without parameters are left out.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa import adapt
        >>> net = adapt(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), SSF())
        >>> net.blocks[0].mlp.linear1.ssf_scale.shape
        torch.Size([96])
    """

    def claims(self, network: nn.Module) -> set[str]:
        """Return the names of weight and bias of each layer whose output is scaled and shifted."""
        paths = _layers(network)
        return {f"{path}.{name}" for path in paths for name, _ in network.get_submodule(path).named_parameters()}

    def inject(self, network: nn.Module) -> set[str]:
        """Replace each layer by :class:`SSFLayer` and return the names of its scale and shift."""
        learning = set()
        for path in _layers(network):
            layer = SSFLayer(network.get_submodule(path))
            network.set_submodule(path, layer)
            learning |= {f"{path}.ssf_scale"} | ({f"{path}.ssf_shift"} if layer.ssf_shift is not None else set())
        return learning


class SSFLayer(nn.Module):
    """A frozen layer whose output is scaled and shifted per channel.

    It has all attributes of the layer that it replaces, such as ``weight``, ``normalized_shape`` and running
    statistics, but its own class: one class serves linear layers, convolutions and norms.

    Args:
        layer: the pretrained layer; its tensors are shared, not copied.

    Example:
        >>> layer = SSFLayer(nn.Conv2d(1, 4, 3))
        >>> layer(torch.ones(1, 1, 5, 5)).shape, layer.ssf_scale.shape, layer.kernel_size
        (torch.Size([1, 4, 3, 3]), torch.Size([4]), (3, 3))
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, layer: nn.Module) -> None:
        adopt(self, layer)
        self.kind = type(layer)
        self.ssf_scale = nn.Parameter(self.weight.new_ones(len(self.weight)))
        self.ssf_shift = None if self.bias is None else nn.Parameter(torch.zeros_like(self.ssf_scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the layer, always in eval mode, then scale * y + shift along the channels of y."""
        # The layer is rebuilt from the current tensors, because a copy kept here would go stale. Its hooks run on self.
        y = self.plain().eval().forward(x)
        # Under autocast y may have lower precision and keeps its type; autograd casts the gradients back.
        scale = self._along_channels(self.ssf_scale, y)
        if self.ssf_shift is None:
            return y * scale
        return torch.addcmul(self._along_channels(self.ssf_shift, y), y, scale)

    def plain(self) -> nn.Module:
        """Return the pretrained layer, sharing its tensors."""
        return original_of(self, self.kind, ("kind", "ssf_scale", "ssf_shift"))

    def merged(self) -> nn.Module:
        """Return a plain layer with weight scale * W and bias scale * b + shift."""
        layer = self.plain()
        scale = self.ssf_scale.detach()
        layer.weight = nn.Parameter(self.weight.detach() * scale.view(-1, *[1] * (self.weight.dim() - 1)))
        if self.bias is not None and self.ssf_shift is not None:
            layer.bias = nn.Parameter(self.bias.detach() * scale + self.ssf_shift.detach())
        for name, buffer in self.named_buffers():
            setattr(layer, name, buffer.clone())
        return layer

    def extra_repr(self) -> str:
        """Return the class and size of the plain layer."""
        return f"{self.kind.__name__}: {self.plain().extra_repr()}"

    def _along_channels(self, values: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if issubclass(self.kind, _CHANNELS_LAST):
            axes = 1
        else:  # of a norm (C,) all but the batch; of a convolution (C', C, kernel...) also without a batch
            axes = y.dim() - 1 if self.weight.dim() == 1 else self.weight.dim() - 1
        return values.to(y.dtype).view(-1, *[1] * (axes - 1))


def _layers(network: nn.Module) -> list[str]:
    undone = undone_layers(network)
    return [path for path in encoder_layers(network, _KINDS) if path not in undone]
