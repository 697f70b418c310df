# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""APLA: train the attention output projection W_O, or a random subset of its columns.

Sorkhei et al., "APLA: A Simple Adaptation Method for Vision Transformers", arXiv 2503.11335.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.autograd.function import FunctionCtx, once_differentiable

from monai_essa.anatomy.blocks import BlockParts, transformer_blocks
from monai_essa.methods.method import adopt, check_value, original_of
from monai_essa.outside import ListOf, Number, shown

__all__ = ["APLA", "APLALinear", "as_autocast_would"]

_ADDED = ("kind", "columns", "rows", "row_biases")
Columns = int | float | Mapping[Any, Sequence[int]] | None


class BlockColumns(dict[str, tuple[int, ...]]):
    """Columns by block as a dictionary that can be hashed, as a frozen dataclass requires, and written as JSON."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


@dataclass(frozen=True)
class APLA:
    """Attention Projection Layer Adaptation (arXiv 2503.11335, section 3): only W_O of every encoder block learns.

    With attention output :math:`x` and :math:`y = x W_O + b`, the chosen columns of :math:`W_O` and the corresponding
    entries of :math:`b` are trained from their pretrained values; everything else stays frozen. A column of
    :math:`W_O` is an output feature, hence a **row** of ``nn.Linear.weight``.

    Args:
        columns: which columns learn. None: all of W_O, without a new module ("full" in the paper). An int: that many,
            drawn at random for each block. A float in (0, 1]: that fraction. A mapping: from the block's position
            among the encoder blocks, or its path, to column indices; blocks that are not named stay frozen. A mapping
            is stored with names as text and indices as tuples, so that values from YAML, JSON and Python are equal.
        seed: of the ``torch.Generator`` that draws the columns.

    Raises:
        ValueError: if ``columns`` is of another form, or the seed is not a whole number.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa import adapt
        >>> net = adapt(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), APLA(columns=8))
        >>> sum(p.numel() for p in net.parameters() if p.requires_grad)  # 2 blocks x 8 rows x (48 weights + 1 bias)
        784
    """

    columns: Columns = None
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", _checked(self.columns))
        check_value(self, "seed", Number(0, 2**63 - 1, whole=True))

    def claims(self, network: nn.Module) -> set[str]:
        """Return the names of weight and bias of W_O in every encoder block that learns."""
        paths = [path for path, _ in self._targets(network)]
        return {f"{path}.{name}" for path in paths for name, _ in network.get_submodule(path).named_parameters()}

    def inject(self, network: nn.Module) -> set[str]:
        """Replace W_O by :class:`APLALinear` if only some columns learn; change nothing for ``columns=None``."""
        if self.columns is None:
            return self.claims(network)
        learning = set()
        for path, columns in self._targets(network):
            layer = APLALinear(network.get_submodule(path), columns)  # type: ignore[arg-type]
            network.set_submodule(path, layer)
            learning |= {f"{path}.rows"} | ({f"{path}.row_biases"} if layer.row_biases is not None else set())
        return learning

    def _targets(self, network: nn.Module) -> list[tuple[str, torch.Tensor]]:
        blocks = [block for block in transformer_blocks(network) if block.role == "encoder" and block.output]
        if isinstance(self.columns, Mapping):
            return _given_columns(network, blocks, self.columns) if blocks else []
        generator = torch.Generator().manual_seed(self.seed)
        targets = []
        for block in blocks:
            width = network.get_parameter(f"{block.output}.weight").shape[0]
            drawn = torch.randperm(width, generator=generator)[: _count(self.columns, width, str(block.output))]
            targets.append((str(block.output), drawn.sort().values))
        return targets


class APLALinear(nn.Module):
    """A linear layer of which only some output features learn, with one matrix product and no copy of the others.

    It has all attributes and hooks of the layer that it replaces, but another class, so other methods do not match it.
    ``weight`` and ``bias`` keep their names and pretrained values and are never written to. ``rows`` (r, in) and
    ``row_biases`` (r,) hold the learned values of the output features ``columns`` (r,), a saved buffer.

    Args:
        linear: the pretrained layer; its tensors are shared, not copied.
        columns: indices of output features, unique, int64, shape (r,).

    Example:
        >>> layer = APLALinear(nn.Linear(4, 6), torch.tensor([0, 5]))
        >>> layer(torch.ones(1, 4)).shape, layer.rows.shape
        (torch.Size([1, 6]), torch.Size([2, 4]))
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    columns: torch.Tensor

    def __init__(self, linear: nn.Linear, columns: torch.Tensor) -> None:
        adopt(self, linear)
        self.kind = type(linear)
        columns = columns.to(linear.weight.device)
        self.register_buffer("columns", columns)
        self.rows = nn.Parameter(linear.weight.detach()[columns].clone())
        self.row_biases = None if linear.bias is None else nn.Parameter(linear.bias.detach()[columns].clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute y = x W^T + b with the learned rows in place; x (..., in) -> (..., out)."""
        tensors = as_autocast_would(x, self.weight, self.bias, self.rows, self.row_biases)
        return _RowsLinear.apply(*tensors, self.columns)

    def plain(self) -> nn.Module:
        """Return the pretrained layer, sharing its tensors and hooks."""
        return original_of(self, self.kind, _ADDED)

    def merged(self) -> nn.Module:
        """Return a plain layer whose weight and bias hold the learned rows."""
        layer = self.plain()
        layer.weight = nn.Parameter(_with_rows(self.weight, self.columns, self.rows).detach())
        if self.bias is not None:
            layer.bias = nn.Parameter(_with_rows(self.bias, self.columns, self.row_biases).detach())
        return layer

    def extra_repr(self) -> str:
        """Return the layer's size and the number of output features that learn."""
        return f"in_features={self.weight.shape[1]}, out_features={self.weight.shape[0]}, columns={len(self.columns)}"

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        self._follow_new_base(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.no_grad()
    def _follow_new_base(self, state: Mapping[str, Any], prefix: str) -> None:
        """Restart the learned rows from the new weight when a plain state dict is loaded."""
        if f"{prefix}rows" in state:
            return
        for name, rows in (("weight", self.rows), ("bias", self.row_biases)):
            new = state.get(prefix + name)
            if new is not None and rows is not None and new.shape[0] == len(self.weight):
                rows.copy_(new[self.columns.to(new.device)])


def as_autocast_would(*tensors: Any) -> tuple[Any, ...]:
    """Cast the tensors of an operation as autocast does, for a custom autograd function, which autocast does not cover.

    Autograd casts the gradients back. As in torch, float64 tensors are not cast.

    Args:
        tensors: floating-point tensors on one device, or None.

    Returns:
        The same tensors; within autocast, those of fp32 and fewer bits are cast to its number format.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     [each.dtype for each in as_autocast_would(torch.ones(1), torch.ones(1, dtype=torch.float64))]
        [torch.bfloat16, torch.float64]
    """
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(each if each is None or each.dtype == torch.float64 else each.to(dtype) for each in tensors)


class _RowsLinear(torch.autograd.Function):
    """Compute y = x W'^T + b', where W' is W with the learned rows; gradients for x and the learned rows only."""

    @staticmethod
    def forward(
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        rows: torch.Tensor,
        row_biases: torch.Tensor | None,
        columns: torch.Tensor,
    ) -> torch.Tensor:
        bias = None if bias is None else _with_rows(bias, columns, row_biases)
        return F.linear(x, _with_rows(weight, columns, rows), bias)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple, output: torch.Tensor) -> None:
        x, weight, _, rows, _, columns = inputs
        # W' is rebuilt in backward: keeping it would cost one more weight matrix for each block.
        ctx.save_for_backward(x, weight, rows, columns)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, rows, columns = ctx.saved_tensors  # type: ignore[attr-defined]
        needs_x, _, _, needs_rows, needs_biases, _ = ctx.needs_input_grad  # type: ignore[attr-defined]
        grad_x = grad @ _with_rows(weight, columns, rows) if needs_x else None
        chosen = grad.reshape(-1, len(weight))[:, columns] if needs_rows or needs_biases else grad  # (tokens, r)
        grad_rows = chosen.t() @ x.reshape(-1, weight.shape[1]) if needs_rows else None
        return grad_x, None, None, grad_rows, chosen.sum(0) if needs_biases else None, None


def _with_rows(tensor: torch.Tensor, columns: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    return tensor if rows is None else tensor.index_copy(0, columns, rows)


def _checked(columns: Columns) -> Columns:
    if isinstance(columns, Mapping) and columns:
        return BlockColumns({str(block): _indices(block, given) for block, given in columns.items()})
    count = isinstance(columns, int) and not isinstance(columns, bool) and columns >= 1
    if columns is None or count or (isinstance(columns, float) and 0 < columns <= 1):
        return columns
    raise ValueError(
        "APLA, columns: expected None, a count from 1, a fraction in (0, 1] with a decimal point or a mapping from "
        f"blocks to indices, got {shown(columns)}"
    )


def _indices(block: int | str, given: Sequence[int]) -> tuple[int, ...]:
    where = f"APLA, columns of block {shown(block)}"
    indices = ListOf(Number(0, whole=True), shortest=1).check(list(given) if isinstance(given, range) else given, where)
    if len(set(indices)) != len(indices):
        raise ValueError(f"{where}: expected each index once, got {shown(given)}")
    return tuple(indices)


def _count(columns: int | float | None, width: int, path: str) -> int:
    if columns is None:
        return width
    if isinstance(columns, float):
        return max(1, round(columns * width))
    if columns > width:
        raise ValueError(f"columns must be between 1 and {width}, the width of '{path}', got {columns}")
    return columns


def _given_columns(
    network: nn.Module, blocks: list[BlockParts], columns: Mapping[Any, Sequence[int]]
) -> list[tuple[str, torch.Tensor]]:
    named = {name: block for i, block in enumerate(blocks) for name in (str(i), block.path)}
    targets: dict[str, torch.Tensor] = {}
    for key, indices in columns.items():
        if key not in named:
            raise ValueError(
                f"columns name the block {key}; expected 0 to {len(blocks) - 1} or a path like '{blocks[0].path}'"
            )
        path = str(named[key].output)
        width = len(network.get_parameter(f"{path}.weight"))
        if max(indices) >= width:
            raise ValueError(f"columns of block {key} must be in 0 to {width - 1}, got {max(indices)}")
        if path in targets:
            raise ValueError(f"columns name the block '{named[key].path}' twice, by its position and by its path")
        targets[path] = torch.tensor(indices)
    return list(targets.items())
