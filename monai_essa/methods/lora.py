# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""LoRA: low-rank updates of attention and MLP projections and of convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_essa.anatomy.blocks import BlockParts, Rows, transformer_blocks
from monai_essa.anatomy.parts import encoder_layers
from monai_essa.methods.method import adopt, check_above_zero, check_dropout, check_value, original_of
from monai_essa.outside import Choice, Flag, ListOf, Number

__all__ = ["ADDED", "LoRA", "LoRAConv", "LoRALinear"]

_TARGETS = ("q", "k", "v", "o", "mlp", "conv")
ADDED = ("kind", "scale", "dropout", "lora_A", "lora_B")
"""Attributes that an update adds to a layer, linear or convolution."""
_CONVOLVE: dict[int, Callable[..., torch.Tensor]] = {2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class LoRA:
    r"""Low-rank adaptation (arXiv 2106.09685, section 4.1) of layers of the encoder.

    .. math:: y = W x + b + \frac{\alpha}{r} B A x, \quad A \in R^{r \times in},\ B \in R^{out \times r}

    A starts Kaiming-uniform, as in the official code (the paper says Gaussian), and B at zero, so that the network
    starts at its base. Queries, keys and values each have their own A and B, even if MONAI fuses them in one qkv layer.

    Args:
        rank: r, at most the narrower side of the layer: its outputs, or its inputs times the size of its kernel.
        alpha: the update is scaled by alpha / rank.
        targets: one or more of ``"q"``, ``"k"``, ``"v"``, ``"o"`` (W_O) and ``"mlp"`` (both layers) in every block, and
            ``"conv"``, every 2-D and 3-D convolution without groups, for CNNs. The paper adapts q and v.
        dropout: on the input of A, in training only.
        freeze_a: A stays as it starts, and B alone learns (FFA-LoRA, arXiv 2403.12313, section 4): the average over
            sites is then exact at the same rank. A is in the adapter file all the same.

    Raises:
        ValueError: if a value is out of its range, or a target is unknown.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa import adapt
        >>> net = adapt(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), LoRA(rank=4, alpha=8))
        >>> sum(p.numel() for p in net.parameters() if p.requires_grad)  # 2 blocks x 2 targets x 4 x (48 + 48)
        1536
    """

    rank: int = 8
    alpha: float = 16
    targets: Sequence[str] = ("q", "v")
    dropout: float = 0.0
    freeze_a: bool = False

    def __post_init__(self) -> None:
        check_value(self, "rank", Number(1, whole=True))
        check_above_zero(self, "alpha")
        check_value(self, "targets", ListOf(Choice(_TARGETS), shortest=1))
        object.__setattr__(self, "targets", tuple(dict.fromkeys(self.targets)))  # a list from YAML equals a tuple
        check_dropout(self)
        check_value(self, "freeze_a", Flag())

    def claims(self, network: nn.Module) -> set[str]:
        """Return the name of the weight of each updated layer; its bias stays free for another method."""
        paths = [*self._layers(network), *self._convolutions(network)]
        for path in paths:
            _check_rank(self.rank, path, network.get_parameter(f"{path}.weight"))
        return {f"{path}.weight" for path in paths}

    def inject(self, network: nn.Module) -> set[str]:
        """Replace each target by :class:`LoRALinear` or :class:`LoRAConv` and return the names of what learns."""
        layers, convolutions = self._layers(network), self._convolutions(network)
        learning, sides = set(), "B" if self.freeze_a else "AB"
        for path, updates in layers.items():
            linear = network.get_submodule(path)
            layer = LoRALinear(linear, updates, self.rank, self.alpha, self.dropout)  # type: ignore[arg-type]
            network.set_submodule(path, layer)
            learning |= {f"{path}.lora_{side}.{name}" for side in sides for name in updates}
        for path in convolutions:
            conv = network.get_submodule(path)
            network.set_submodule(path, LoRAConv(conv, self.rank, self.alpha, self.dropout))  # type: ignore[arg-type]
            learning |= {f"{path}.lora_{side}" for side in sides}
        return learning

    def _layers(self, network: nn.Module) -> dict[str, dict[str, Rows]]:
        layers: dict[str, dict[str, Rows]] = {}
        for block in transformer_blocks(network):
            if block.role == "encoder":
                for name, rows in self._updates(network, block):
                    layers.setdefault(rows.path, {})[name] = rows
        return layers

    def _convolutions(self, network: nn.Module) -> list[str]:
        layers = encoder_layers(network, (nn.Conv2d, nn.Conv3d)) if "conv" in self.targets else ()
        return [path for path in layers if network.get_submodule(path).groups == 1]

    def _updates(self, network: nn.Module, block: BlockParts) -> Iterator[tuple[str, Rows]]:
        for name, rows in (("q", block.query), ("k", block.key), ("v", block.value)):
            if name in self.targets:
                yield name, rows
        whole = ([block.output] if "o" in self.targets and block.output else []) + (
            list(block.mlp) if "mlp" in self.targets else []
        )
        for path in whole:
            yield "all", Rows(path, 0, network.get_parameter(f"{path}.weight").shape[0])


class LoRALinear(nn.Module):
    """A frozen linear layer with low-rank updates of one or more ranges of its output features.

    It has all attributes and hooks of the layer that it replaces, but another class, so other methods do not match it.

    Args:
        linear: the pretrained layer; its tensors are shared, not copied.
        updates: the rows that each named update acts on.
        rank: r of each update.
        alpha: the updates are scaled by alpha / rank.
        dropout: on the input of A, in training only.

    Example:
        >>> from monai_essa.anatomy.blocks import Rows
        >>> layer = LoRALinear(nn.Linear(4, 12), {"q": Rows("qkv", 0, 4), "v": Rows("qkv", 8, 12)}, rank=2, alpha=4)
        >>> layer(torch.ones(1, 4)).shape, layer.lora_A["q"].shape, layer.lora_B["v"].shape
        (torch.Size([1, 12]), torch.Size([2, 4]), torch.Size([4, 2]))
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self, linear: nn.Linear, updates: dict[str, Rows], rank: int, alpha: float, dropout: float = 0.0
    ) -> None:
        adopt(self, linear)
        self.kind = type(linear)
        self.updates = dict(updates)
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout).train(linear.training)
        self.lora_A = nn.ParameterDict({name: _kaiming(rank, linear.weight) for name in updates})
        self.lora_B = nn.ParameterDict(
            {name: nn.Parameter(linear.weight.new_zeros(rows.size, rank)) for name, rows in updates.items()}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute W x + b plus the scaled updates; x (..., in) -> (..., out)."""
        y = F.linear(x, self.weight, self.bias)
        dropped = self.dropout(x)
        for name, rows in self.updates.items():
            update = F.linear(F.linear(dropped, self.lora_A[name]), self.lora_B[name]) * self.scale
            y = y + _placed(update, rows, y.shape[-1])
        return y

    def plain(self) -> nn.Module:
        """Return the pretrained layer, sharing its tensors and hooks."""
        return original_of(self, self.kind, (*ADDED, "updates"))

    def merged(self) -> nn.Module:
        """Return a plain layer with weight W + (alpha / rank) B A."""
        weight = self.weight.detach().clone()
        for name, rows in self.updates.items():
            weight[rows.indices()] += self.scale * self.lora_B[name].detach() @ self.lora_A[name].detach()
        layer = self.plain()
        layer.weight = nn.Parameter(weight)
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias.detach().clone())
        return layer

    def extra_repr(self) -> str:
        """Return the layer's size and the targets of its updates."""
        return f"in_features={self.weight.shape[1]}, out_features={self.weight.shape[0]}, updates={list(self.updates)}"


class LoRAConv(nn.Module):
    r"""A frozen convolution plus a narrow one of the same kernel and geometry that is followed by a 1x1 one.

    It has all attributes and hooks of the layer that it replaces, but another class, so other methods do not match it.

    .. math:: y = W * x + b + \frac{\alpha}{r} B * (A * x), \quad A \in R^{r \times in \times k^d},\
              B \in R^{out \times r \times 1^d}

    Args:
        conv: the pretrained ``nn.Conv2d`` or ``nn.Conv3d`` without groups; its tensors are shared, not copied.
        rank: r.
        alpha: the update is scaled by alpha / rank.
        dropout: on the input of A, in training only.

    Raises:
        ValueError: if the convolution has groups or does not pad with zeros.

    Example:
        >>> layer = LoRAConv(nn.Conv3d(2, 8, 3, padding=1), rank=2, alpha=4)
        >>> layer(torch.ones(1, 2, 4, 4, 4)).shape, layer.lora_A.shape, layer.lora_B.shape
        (torch.Size([1, 8, 4, 4, 4]), torch.Size([2, 2, 3, 3, 3]), torch.Size([8, 2, 1, 1, 1]))
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    kernel_size: tuple[int, ...]

    def __init__(self, conv: nn.Conv2d | nn.Conv3d, rank: int, alpha: float, dropout: float = 0.0) -> None:
        if conv.groups != 1 or conv.padding_mode != "zeros":
            raise ValueError(f"LoRA needs a convolution with groups=1 and padding_mode='zeros', got {conv}")
        adopt(self, conv)
        self.kind = type(conv)
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout).train(conv.training)
        self.lora_A = nn.Parameter(conv.weight.new_empty(rank, *conv.weight.shape[1:]))
        self.lora_B = nn.Parameter(conv.weight.new_zeros(len(conv.weight), rank, *(1 for _ in conv.kernel_size)))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute W * x + b plus the scaled update; x (B, in, spatial...) -> (B, out, spatial...)."""
        convolve = _CONVOLVE[len(self.kernel_size)]
        geometry = (self.stride, self.padding, self.dilation)
        narrow = convolve(self.dropout(x), self.lora_A, None, *geometry)  # (B, r, spatial...)
        return convolve(x, self.weight, self.bias, *geometry) + self.scale * convolve(narrow, self.lora_B)

    def plain(self) -> nn.Module:
        """Return the pretrained layer, sharing its tensors and hooks."""
        return original_of(self, self.kind, ADDED)

    def merged(self) -> nn.Module:
        """Return a plain layer with weight W + (alpha / rank) B A."""
        update = self.lora_B.detach().flatten(1) @ self.lora_A.detach().flatten(1)  # (out, in k^d)
        layer = self.plain()
        layer.weight = nn.Parameter(self.weight.detach() + self.scale * update.view_as(self.weight))
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias.detach().clone())
        return layer

    def extra_repr(self) -> str:
        """Return the layer's size and the rank."""
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, rank={len(self.lora_A)}"


def _placed(update: torch.Tensor, rows: Rows, width: int) -> torch.Tensor:
    """Put an update (..., rows) among all output features (..., width), zero elsewhere."""
    if rows.groups == 1:
        return F.pad(update, (rows.start, width - rows.stop))
    groups = update.unflatten(-1, (rows.groups, rows.stop - rows.start))
    return F.pad(groups, (rows.start, rows.every - rows.stop)).flatten(-2)


def _kaiming(rank: int, weight: torch.Tensor) -> nn.Parameter:
    matrix = nn.Parameter(weight.new_empty(rank, weight.shape[1]))
    nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))
    return matrix


def _check_rank(rank: int, path: str, weight: torch.Tensor) -> None:
    narrow = min(len(weight), weight[0].numel())
    if rank > narrow:
        raise ValueError(f"rank {rank} is more than the {narrow} features of '{path}'; choose a rank up to {narrow}")
