# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Keep a description on a network, once everything that it names is there."""

from __future__ import annotations

import dataclasses
import math
import operator
import re
from collections.abc import Iterator
from typing import Any

import torch.nn as nn

from monai_essa.anatomy.described.description import (
    BlockDescription,
    EncoderDescription,
    MapDescription,
    TokenDescription,
    described_blocks,
)
from monai_essa.anatomy.parts import DESCRIPTION, layers_read_directly

__all__ = ["describe"]

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)


def describe(network: nn.Module, anatomy: EncoderDescription) -> nn.Module:
    """Keep a description on a network, in place, so that everything else finds it there.

    ``adapt``, ``load_adapter`` and the objectives call it with their argument ``anatomy``. Copies of the network keep
    the description; its state dict does not change.

    Args:
        network: a plain network, or one that has the same description already.
        anatomy: where the parts of its encoder are.

    Returns:
        The same network object.

    Raises:
        TypeError: if ``anatomy`` is no description.
        ValueError: if the network has another description, or a part is not where the description says.
    """
    if not isinstance(anatomy, EncoderDescription):
        raise TypeError(f"anatomy: expected an EncoderDescription, got {type(anatomy).__name__}")
    kept = vars(network).get(DESCRIPTION)
    if kept is not None and kept != anatomy:
        raise ValueError(
            f"{type(network).__name__} has another description already; pass the same anatomy, or none, from there on"
        )
    if kept is None:
        _check_fits(network, anatomy)
        trunk = network.get_submodule(anatomy.prefix.rstrip("."))
        vars(trunk)[DESCRIPTION] = dataclasses.replace(anatomy, prefix="")
        vars(network)[DESCRIPTION] = anatomy
    return network


def _check_fits(network: nn.Module, anatomy: EncoderDescription) -> None:
    """Check that everything that a description names is there; it was written by hand, and a slip has to show."""
    trunk, prefix = network, anatomy.prefix.rstrip(".")
    if prefix:
        trunk = dict(network.named_modules()).get(prefix, network)
    for why in _misfits(network, trunk, anatomy):
        raise ValueError(f"the description does not fit {type(network).__name__}: {why}")


def _misfits(network: nn.Module, trunk: nn.Module, anatomy: EncoderDescription) -> Iterator[str]:
    if anatomy.prefix and (trunk is network or not anatomy.prefix.endswith(".")):
        yield f"prefix {anatomy.prefix!r} is not the path of a module and a dot"
    modules = dict(trunk.named_modules())
    if anatomy.blocks is not None:
        yield from _misfits_of_blocks(trunk, modules, anatomy, anatomy.blocks)
    if isinstance(anatomy.output, MapDescription):
        if not callable(getattr(trunk, anatomy.output.method, None)):
            yield f"{type(trunk).__name__} has no method {anatomy.output.method!r}"
        if len(anatomy.output.stride) not in (2, 3) or min(anatomy.output.stride) < 1:
            yield f"stride: expected voxels along 2 or 3 axes, got {anatomy.output.stride}"
    else:
        yield from _misfits_of_tokens(trunk, modules, anatomy, anatomy.output)


def _misfits_of_blocks(
    trunk: nn.Module, modules: dict[str, nn.Module], anatomy: EncoderDescription, parts: BlockDescription
) -> Iterator[str]:
    if len(parts.qkv) not in (1, 3) or len(parts.mlp) not in (0, 2):
        yield f"expected one or three layers of qkv and none or two of mlp, got {parts.qkv} and {parts.mlp}"
    paths = list(described_blocks(trunk, anatomy, ""))
    if not paths:
        yield f"no module matches the paths of blocks, {parts.paths!r}; there are {', '.join(list(modules)[1:6])} ..."
    unseen = layers_read_directly(trunk)
    for path in paths:
        layers = (*((layer, 2) for layer in (*parts.qkv, parts.output, *parts.mlp)), *((n, 1) for n in parts.norms))
        for part, axes in layers:
            if f"{path}.{part}" in unseen:
                yield f"'{path}.{part}' is a layer whose weight torch's own block reads: an adapter has no effect"
            weight = getattr(modules.get(f"{path}.{part}"), "weight", None)
            if weight is None or weight.dim() != axes:
                yield f"'{path}.{part}' is no {'linear layer' if axes == 2 else 'norm'} of it"
        rows = trunk.get_parameter(f"{path}.{parts.qkv[0]}.weight").shape[0] if len(parts.qkv) == 1 else 0
        heads = operator.attrgetter(parts.heads)(modules[path]) if parts.heads else 1
        if not isinstance(heads, int) or heads < 1 or rows % (3 * heads):
            yield f"the {rows} rows of '{path}.{parts.qkv[0]}' are not queries, keys and values of {heads} heads"


def _misfits_of_tokens(
    trunk: nn.Module, modules: dict[str, nn.Module], anatomy: EncoderDescription, parts: TokenDescription
) -> Iterator[str]:
    embedding: Any = modules.get(parts.patch_embedding)
    if not isinstance(embedding, _CONVOLUTIONS) or embedding.stride != embedding.kernel_size:
        yield f"'{parts.patch_embedding}' is no convolution whose stride is its kernel"
    for path in (*parts.before_blocks, *((parts.final_norm,) if parts.final_norm else ())):
        if path not in modules:
            yield f"'{path}' is no module of it"
    for path in (parts.grid, parts.positions, *parts.prefix_tokens):
        if path and not _has(trunk, path):
            yield f"it has no '{path}'"
    yield from _misfits_of_positions(trunk, parts)
    placed = (parts.patch_embedding, *parts.before_blocks, parts.final_norm, *described_blocks(trunk, anatomy, ""))
    starts = tuple(f"{path}." for path in placed)
    alone = {parts.positions, *parts.prefix_tokens}
    for name, _ in trunk.named_parameters():
        if not (name.startswith(starts) or name in alone or (anatomy.head and re.match(anatomy.head, name))):
            yield f"it does not say where '{name}' is used; name it, or leave it to the head"


def _misfits_of_positions(trunk: nn.Module, parts: TokenDescription) -> Iterator[str]:
    tables = [operator.attrgetter(path)(trunk) for path in (parts.positions, *parts.prefix_tokens) if path]
    prefix = sum(token.shape[1] for token in tables[bool(parts.positions) :] if token is not None)
    patches = math.prod(operator.attrgetter(parts.grid)(trunk))
    count = patches if not parts.positions or tables[0] is None else tables[0].shape[1]
    if count not in (patches, prefix + patches):
        yield f"'{parts.positions}' has {count} positions, for {prefix} prefix tokens and {patches} patches"


def _has(trunk: nn.Module, path: str) -> bool:
    try:
        operator.attrgetter(path)(trunk)
    except AttributeError:
        return False
    return True
