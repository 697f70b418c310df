# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Choose the columns of W_O that learn, at random, by the pretrained weights or by a probe batch; index files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn as nn

from monai_essa.anatomy.blocks import transformer_blocks
from monai_essa.files import write_text_whole

__all__ = ["choose_columns", "read_columns", "write_columns"]

_STRATEGIES = ("random", "largest_norm", "largest_gradient")
Loss = Callable[[nn.Module], torch.Tensor]


def choose_columns(
    network: nn.Module, r: int, strategy: str = "random", seed: int = 0, loss: Loss | None = None
) -> dict[str, list[int]]:
    """Choose r columns of W_O in each encoder block, for ``APLA(columns=...)``.

    A column of W_O is an output feature, hence a row of ``nn.Linear.weight``. The choice is the same on all ranks of
    ``torch.distributed``, because gradients are averaged over them first. Ties go to the lower index.

    Args:
        network: a plain network; it is not changed, and neither are its gradients, mode and running statistics.
        r: number of columns in each block.
        strategy: ``"random"``: the columns that ``APLA(columns=r, seed=seed)`` draws. ``"largest_norm"``: those with
            the largest L2 norms of the pretrained weights. ``"largest_gradient"``: those with the largest L2 norms of
            the gradient of ``loss``.
        seed: of the random draw.
        loss: for ``"largest_gradient"``, a function of the network in eval mode that returns the scalar loss of a
            probe batch.

    Returns:
        The chosen indices in ascending order, by the path of each encoder block.

    Raises:
        ValueError: if the strategy is unknown, r does not fit, ``loss`` is missing or does not return a finite scalar
            that depends on every W_O, or the network has no transformer block with an output projection.

    Example:
        >>> from monai.networks.nets import ViT
        >>> net = ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4)
        >>> [len(columns) for columns in choose_columns(net, 8, "largest_norm").values()]
        [8, 8]
    """
    weights = _output_weights(network)
    narrow = min(len(weight) for weight in weights.values())
    if isinstance(r, bool) or not isinstance(r, int) or not 1 <= r <= narrow:
        raise ValueError(f"r must be an int between 1 and {narrow}, the narrowest W_O, got {r!r}")
    if strategy == "random":
        generator = torch.Generator().manual_seed(seed)
        drawn = {path: torch.randperm(len(weight), generator=generator)[:r] for path, weight in weights.items()}
    elif strategy == "largest_norm":
        drawn = {path: _largest(weight, r) for path, weight in weights.items()}
    elif strategy == "largest_gradient":
        if loss is None:
            raise ValueError("strategy 'largest_gradient' needs loss=, which gives the loss of a probe batch")
        gradients = _mean_gradients(network, weights, loss)
        drawn = {path: _largest(gradient, r) for path, gradient in gradients.items()}
    else:
        raise ValueError(f"strategy must be one of {', '.join(_STRATEGIES)}, got {strategy!r}")
    return {path: indices.sort().values.tolist() for path, indices in drawn.items()}


def write_columns(columns: Mapping[str, Sequence[int]], path: str | Path) -> Path:
    """Write an index file, which is JSON with a list of columns for each block; an existing file is replaced.

    Returns:
        The path.
    """
    path = Path(path)
    write_text_whole(path, json.dumps({block: list(indices) for block, indices in columns.items()}))
    return path


def read_columns(path: str | Path) -> dict[str, list[int]]:
    """Read an index file, for ``APLA(columns=read_columns(path))``.

    Returns:
        The indices in the file, by the path or the position ("0") of each block.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a JSON object of lists of indices.
    """
    try:
        columns = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no index file: it is not JSON ({error})") from error
    if not isinstance(columns, dict) or not columns:
        raise ValueError(f'{path} is no index file: expected {{"blocks.0": [3, 17], ...}}, got {str(columns)[:60]}')
    for block, indices in columns.items():
        if not isinstance(indices, list) or not indices or not all(type(i) is int and i >= 0 for i in indices):
            raise ValueError(
                f"{path}: block {block!r} must have a list of indices from 0, such as [3, 17], got {str(indices)[:60]}"
            )
    return columns


def _output_weights(network: nn.Module) -> dict[str, nn.Parameter]:
    weights = {
        block.path: network.get_parameter(f"{block.output}.weight")
        for block in transformer_blocks(network)
        if block.role == "encoder" and block.output
    }
    if not weights:
        raise ValueError(f"{type(network).__name__} has no encoder block with an output projection to choose from")
    return weights


def _largest(rows: torch.Tensor, count: int) -> torch.Tensor:
    norms = rows.detach().double().norm(dim=1)
    return norms.sort(descending=True, stable=True).indices[:count].cpu()


def _mean_gradients(network: nn.Module, weights: dict[str, nn.Parameter], loss: Loss) -> dict[str, torch.Tensor]:
    with _left_as_it_was(network), torch.enable_grad():
        network.eval().requires_grad_(False)
        for weight in weights.values():
            weight.requires_grad_(True)
        value = loss(network)
        if not isinstance(value, torch.Tensor) or value.numel() != 1 or not value.requires_grad or not value.isfinite():
            raise ValueError(f"loss must give a finite scalar computed from the network's output, got {value}")
        gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
    unused = [path for path, gradient in zip(weights, gradients, strict=True) if gradient is None]
    if unused:
        raise ValueError(f"loss does not depend on W_O of block '{unused[0]}'; compute it from the network's output")
    if dist.is_available() and dist.is_initialized():
        for gradient in gradients:
            dist.all_reduce(gradient)
            gradient /= dist.get_world_size()
    return dict(zip(weights, gradients, strict=True))


@contextmanager
def _left_as_it_was(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in network.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    for parameter, _, _ in parameters:
        parameter.grad = None  # a loss that calls backward would add to it in place
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad, gradient in parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
        for buffer, value in buffers:
            buffer.copy_(value)
