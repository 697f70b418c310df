# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What the names and shapes of tensors reveal about the network that they belong to, and how deep in it they are.

Names are canonical: those of MONAI's bare encoders (``blocks.0.attn.qkv.weight``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

import torch
import torch.nn as nn

from monai_essa.anatomy.blocks import transformer_blocks
from monai_essa.anatomy.described.description import EncoderDescription, TokenDescription, described
from monai_essa.anatomy.parts import encoder_prefix, part_of
from monai_essa.anatomy.positions import POSITIONS

__all__ = [
    "CLASS_TOKEN",
    "CONSTANTS",
    "architecture_of",
    "differences",
    "is_first_convolution",
    "is_of_some_encoders",
    "is_patch_embedding",
    "is_token_or_position",
    "layer_depths",
    "option_behind",
    "spatial_dims",
]

Shapes = Mapping[str, torch.Size]

# A part of a tensor's name that only this architecture has.
_ARCHITECTURES = {
    "swin_unetr": "relative_position_bias_table",
    "segresnet": "down_layers.",
    "transformer": ".attn.qkv.",
}
# Constants of an architecture that MONAI keeps as buffers: the pairs of positions within a window.
CONSTANTS = ("relative_position_index",)
CLASS_TOKEN = "cls_token"
_TOKENS_AND_POSITIONS = frozenset(
    {CLASS_TOKEN, "mask_token", "mask_tokens", POSITIONS.rpartition(".")[2], "relative_position_bias_table"}
)
# Only some encoders have them: the convolutions of Swin's second version, and parameters that stand beside modules.
_OF_SOME_ENCODERS = re.compile(r"layers\dc\..*|(?!decoder|mask_)\w*(tokens?|pos(ition)?_?embed\w*)")
# Every convolution that reads the image itself; the decoder of a UNETR or SwinUNETR has two, so does a UNet's encoder.
_FIRST_CONVOLUTION = re.compile(
    r"(patch_embedding\.patch_embeddings|patch_embed\.proj|encoder1\.layer\.conv[13]\.conv"
    r"|convInit\.conv|conv_init|model\.0\.(conv\.unit0\.)?conv|model\.0\.residual|conv1|conv0)\.weight"
)
_PATCHES = r"(patch_embedding\.patch_embeddings|patch_embed\.proj|convInit\.conv|conv_init|conv1|conv0)\.weight"
_BIAS_TABLE = r"layers1\.0\.blocks\.0\.attn\.relative_position_bias_table"
# (tensor, axis, argument): the size of the tensor along the axis reveals the argument.
_SIZES = (
    (r"norm\.weight", 0, "hidden_size"),
    (r"patch_embed\.proj\.weight", 0, "feature_size"),
    (r"blocks\.0\.mlp\.linear1\.weight", 0, "mlp_dim"),
    (_PATCHES, 1, "in_channels"),
    (r"(patch_embedding\.patch_embeddings|patch_embed\.proj)\.weight", 2, "patch_size"),
    (_BIAS_TABLE, 0, "the table size of window_size"),
    (_BIAS_TABLE, 1, "num_heads"),
    (r"(convInit\.conv|conv_init)\.weight", 0, "init_filters"),
    (r"conv1\.weight", 0, "the width"),
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
    r"|layers\.\d+\.blocks\.\d+\.conv1\.weight|layer\d\.\d+\.conv1\.weight"
)
# Stages of the encoders without attention, by the start of a name; the levels of a UNet are nested.
_CNN_STAGE = re.compile(r"(down_layers\.\d+|layers\.\d+|layer\d|denseblock\d+|model(\.1\.submodule)*)\.")
_SWIN_BLOCK = re.compile(r"layers(\d)\.0\.blocks\.\d+")


def architecture_of(names: Iterable[str]) -> str | None:
    """Return ``"swin_unetr"``, ``"segresnet"``, ``"transformer"`` (a ViT or UNETR), or None if no name shows it.

    Args:
        names: of a file's tensors, with any prefix.

    Example:
        >>> architecture_of(["module.vit.blocks.0.attn.qkv.weight"])
        'transformer'
    """
    dotted = [f".{name}" for name in names]
    return next((kind for kind, part in _ARCHITECTURES.items() if any(part in name for name in dotted)), None)


def is_first_convolution(name: str) -> bool:
    """Tell whether a tensor is the weight of a convolution that reads the image."""
    return _FIRST_CONVOLUTION.fullmatch(name) is not None


def is_patch_embedding(name: str) -> bool:
    """Tell whether a tensor is the convolution that makes the tokens of a ViT, whose stride is its kernel."""
    return name == "patch_embedding.patch_embeddings.weight"


def is_of_some_encoders(name: str) -> bool:
    """Tell whether a tensor belongs to an encoder although many encoders do not have it, as with a class token."""
    return _OF_SOME_ENCODERS.fullmatch(name) is not None


def is_token_or_position(name: str) -> bool:
    """Tell whether a tensor holds tokens or position embeddings: values, and not the weights of a layer."""
    return name.rpartition(".")[2] in _TOKENS_AND_POSITIONS


def layer_depths(network: nn.Module) -> dict[str, int]:
    """Number the parameters of a network by depth: the layers of the encoder from 0 on, and what follows it above them.

    The patch embedding, tokens and positions have depth 0, and block i of n, counted from 0, has i + 1. The final norm,
    the decoder and the head have n + 1. This is how the authors of BEiT and MAE number a ViT. In a Swin transformer
    the merging of patches has the depth of the block before it, as in SimMIM's code, and so have the convolutions of
    the second version. The stages of a CNN count as blocks. An encoder that is described without blocks has depth 1 as
    a whole.

    Args:
        network: a MONAI network or a described one, plain or adapted; a tensor that a method adds is as deep as its
            block.

    Returns:
        The depth of each parameter by its name.

    Raises:
        TypeError: if the class of the network is unknown, as :func:`monai_essa.anatomy.parts.check_known` says.

    Example:
        >>> from monai.networks.nets import ViT
        >>> depths = layer_depths(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4))
        >>> [depths[f"{name}.weight"] for name in ("patch_embedding.patch_embeddings", "blocks.1.norm1", "norm")]
        [0, 2, 3]
    """
    marks = _depth_marks(network)
    last, deepest = 0, max(marks.values())
    depths = {}
    for name, _ in network.named_parameters():
        if part_of(network, name) != "encoder":
            depths[name] = deepest + 1
            continue
        fitting = [start for start in marks if name.startswith(start)]
        if fitting:
            last = depths[name] = marks[max(fitting, key=len)]
        else:  # between two blocks, or behind the last one
            depths[name] = last if last < deepest else deepest + 1
    return depths


def differences(file: Shapes, network: Shapes) -> list[str]:
    """List the arguments in which two networks differ, in words.

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
    """Return the argument that explains why only one side has tensors of this kind, or None.

    Args:
        name: a tensor of the side that has them.
        others: all tensors of the other side.

    Example:
        >>> option_behind("blocks.0.attn.qkv.bias", ["blocks.0.attn.qkv.weight"])
        'qkv_bias=True'
    """
    matching = ((pattern, argument) for pattern, argument in _OPTIONS if re.fullmatch(pattern, name))
    return next((argument for pattern, argument in matching if not _has(others, pattern)), None)


def spatial_dims(shapes: Shapes) -> int | None:
    """Read 2 or 3 from the kernel of the first convolution; None if the patch embedding is not a convolution."""
    return next((len(shape) - 2 for name, shape in shapes.items() if re.fullmatch(_PATCHES, name)), None)


def _depth_marks(network: nn.Module) -> dict[str, int]:
    """Return the depth of the names that begin with a text; the longest one counts."""
    prefix, found = encoder_prefix(network), described(network)
    blocks = [block.path for block in transformer_blocks(network) if block.role == "encoder"]
    if found is None and not blocks:
        names = (name.removeprefix(prefix) for name, _ in network.named_parameters() if name.startswith(prefix))
        stages = (_CNN_STAGE.match(name) for name in names)
        blocks = list(dict.fromkeys(f"{prefix}{stage[1]}" for stage in stages if stage))
    marks = {f"{path}.": depth for depth, path in enumerate(blocks, start=1)}
    if found is not None:
        return (marks or {found[1]: 1}) | _described_marks(*found)
    return marks | _swin_marks(prefix, blocks)


def _described_marks(anatomy: EncoderDescription, prefix: str) -> dict[str, int]:
    output = anatomy.output
    if not isinstance(output, TokenDescription):
        return {}
    paths = (output.patch_embedding, output.positions, *output.prefix_tokens, *output.before_blocks)
    return {f"{prefix}{path}": 0 for path in paths if path}


def _swin_marks(prefix: str, blocks: Iterable[str]) -> dict[str, int]:
    """Return the depth of what a Swin transformer has beside its blocks, by stage."""
    marks: dict[str, int] = {}
    for depth, path in enumerate(blocks, start=1):
        stage = _SWIN_BLOCK.fullmatch(path.removeprefix(prefix))
        if stage is not None:
            marks.setdefault(f"{prefix}layers{stage[1]}c.", depth - 1)  # it runs before the stage
            marks[f"{prefix}layers{stage[1]}."] = depth
    return marks


def _size(shapes: Shapes, pattern: str, axis: int) -> int | None:
    return next(
        (shape[axis] for name, shape in shapes.items() if re.fullmatch(pattern, name) and len(shape) > axis), None
    )


def _depth(shapes: Shapes) -> int:
    return sum(bool(_BLOCKS.fullmatch(name)) for name in shapes)


def _has(names: Collection[str], pattern: str) -> bool:
    return any(re.fullmatch(pattern, name) for name in names)
