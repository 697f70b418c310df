# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Say by which arguments a network differs from the one that a file was saved from, judging by names and shapes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch

__all__ = ["differences", "named_shapes", "option_behind", "spatial_dims"]

Shapes = Mapping[str, torch.Size]

_PATCHES = r"(patch_embedding\.patch_embeddings|patch_embed\.proj|convInit\.conv|conv_init)\.weight"
_BIAS_TABLE = r"layers1\.0\.blocks\.0\.attn\.relative_position_bias_table"

# (tensor, axis, argument): the size of the tensor along the axis tells the argument.
_SIZES = (
    (r"norm\.weight", 0, "hidden_size"),
    (r"patch_embed\.proj\.weight", 0, "feature_size"),
    (r"blocks\.0\.mlp\.linear1\.weight", 0, "mlp_dim"),
    (_PATCHES, 1, "in_channels"),
    (r"(patch_embedding\.patch_embeddings|patch_embed\.proj)\.weight", 2, "patch_size"),
    (_BIAS_TABLE, 0, "the table size of window_size"),
    (_BIAS_TABLE, 1, "num_heads"),
    (r"(convInit\.conv|conv_init)\.weight", 0, "init_filters"),
    (r"model\.0\.(conv\.unit0\.)?conv\.weight", 1, "in_channels"),
    (r"model\.0\.(conv\.unit0\.)?conv\.weight", 0, "the first of channels"),
)

# (tensors, argument): only networks that were built with the argument have the tensors.
_OPTIONS = (
    (r".*\.attn\.qkv\.bias", "qkv_bias=True"),
    (r"layers\dc\..*", "use_v2=True"),
    (r"patch_embedding\.patch_embeddings\.1\..*", 'proj_type="perceptron"'),
    (r"patch_embedding\.patch_embeddings\.(weight|bias)", 'proj_type="conv"'),
    (r"patch_embed\.norm\..*", "patch_norm=True"),
    (r".*\.running_mean", "batch normalisation"),
)
_BLOCKS = re.compile(
    r"(layers\d\.0\.)?blocks\.\d+\.norm1\.weight|down_layers\.\d+\.\d+\.conv1\.conv\.weight"
    r"|layers\.\d+\.blocks\.\d+\.conv1\.weight"
)


def differences(file: Shapes, network: Shapes) -> list[str]:
    """List the arguments that differ, in words.

    Args:
        file: shapes of the file's tensors by canonical name.
        network: shapes of the network's tensors by canonical name.

    Example:
        >>> differences({"norm.weight": torch.Size([24])}, {"norm.weight": torch.Size([48])})
        ['hidden_size is 24 in the file and 48 in the network']
    """
    facts = [(argument, _size(file, tensor, axis), _size(network, tensor, axis)) for tensor, axis, argument in _SIZES]
    facts += [
        ("number of blocks", _depth(file), _depth(network)),
        ("spatial_dims", spatial_dims(file), spatial_dims(network)),
    ]
    sizes = [
        f"{argument} is {theirs} in the file and {ours} in the network"
        for argument, theirs, ours in facts
        if theirs and ours and theirs != ours
    ]
    return sizes + [
        f"only the {'file' if _has(file, pattern) else 'network'} was built with {argument}"
        for pattern, argument in _OPTIONS
        if _has(file, pattern) != _has(network, pattern)
    ]


def option_behind(name: str, others: Collection[str]) -> str | None:
    """Name the argument that explains why one side has a tensor and the other side has none of its kind, or None.

    Example:
        >>> option_behind("blocks.0.attn.qkv.bias", ["blocks.0.attn.qkv.weight"])
        'qkv_bias=True'
    """
    matching = ((pattern, argument) for pattern, argument in _OPTIONS if re.fullmatch(pattern, name))
    return next((argument for pattern, argument in matching if not _has(others, pattern)), None)


def named_shapes(names: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    """Return the shapes by canonical name of tensors that go by other names: ``names`` maps the first to the second."""
    return {name: tensors[key].shape for name, key in names.items()}


def spatial_dims(shapes: Shapes) -> int | None:
    """Read 2-D or 3-D from the kernel of the patch embedding; None where it is no convolution."""
    return next((len(shape) - 2 for name, shape in shapes.items() if re.fullmatch(_PATCHES, name)), None)


def _size(shapes: Shapes, pattern: str, axis: int) -> int | None:
    return next(
        (shape[axis] for name, shape in shapes.items() if re.fullmatch(pattern, name) and len(shape) > axis), None
    )


def _depth(shapes: Shapes) -> int:
    return sum(bool(_BLOCKS.fullmatch(name)) for name in shapes)


def _has(names: Collection[str], pattern: str) -> bool:
    return any(re.fullmatch(pattern, name) for name in names)
