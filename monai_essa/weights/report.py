# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The report of a load: every tensor with a reason, notes on epsilons, and the option behind a difference."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn

from monai_essa.anatomy.parts import dead_parameters, encoder_layers, part_of
from monai_essa.weights.alignment import Alignment

__all__ = ["TensorEntry", "WeightReport", "differences", "named_shapes", "notes_of", "option_behind", "spatial_dims"]

_LOADED = ("matched", "renamed", "inflated", "interpolated")
_KINDS = (*_LOADED, "folded", "skipped", "missing", "accepted")
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


@dataclass(frozen=True)
class TensorEntry:
    """One tensor.

    Attributes:
        name: in the network; for a skipped or folded tensor its key in the file.
        source: key in the file; empty for a tensor that the file does not have.
        elements: number of its elements, in the network; for a skipped or folded tensor in the file.
        reason: what was done with it, or why it was not loaded.
    """

    name: str
    source: str
    elements: int
    reason: str = ""


@dataclass(frozen=True)
class WeightReport:
    """The truth about one call of ``load_weights``; every tensor of the file is in exactly one of the first six lists.

    Attributes:
        file: name of the file, without its folder.
        sha256: of the file.
        key_map: the family of files that it belongs to.
        prefix: of the file's keys that was stripped.
        matched: loaded as they are; names equal but for the prefixes.
        renamed: loaded as they are under another name.
        inflated: loaded after a change of input channels or depth.
        interpolated: position embeddings loaded on another grid.
        folded: scales of the file, multiplied into the layer before them.
        skipped: in the file, not loaded.
        missing: in the network, not loaded: these keep the values that they had. Tensors that no forward pass reaches
            are left out.
        accepted: tensors of the encoder among the skipped and the missing that ``accept`` names: without it the file
            would have been refused.
        encoder_share: share of the encoder's values that were loaded, buffers included. Values of the file's encoder
            for which the network has no place count as not loaded.
        notes: what else a user should know, in words: other precision, another epsilon, parts that stay random.
        preprocessing: the card in the file's metadata, or None.
    """

    file: str
    sha256: str
    key_map: str
    prefix: str
    matched: tuple[TensorEntry, ...]
    renamed: tuple[TensorEntry, ...]
    inflated: tuple[TensorEntry, ...]
    interpolated: tuple[TensorEntry, ...]
    folded: tuple[TensorEntry, ...]
    skipped: tuple[TensorEntry, ...]
    missing: tuple[TensorEntry, ...]
    accepted: tuple[TensorEntry, ...]
    encoder_share: float
    notes: tuple[str, ...] = ()
    preprocessing: Any = None

    @property
    def loaded(self) -> frozenset[str]:
        """Names in the network of the tensors that were loaded."""
        return frozenset(entry.name for kind in _LOADED for entry in getattr(self, kind))

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values that :mod:`json` can write."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        head = (
            f"{self.file} (sha256 {self.sha256[:12]}, keys '{self.key_map}', prefix '{self.prefix}'): "
            f"{math.floor(1000 * self.encoder_share) / 10}% of the encoder loaded"
        )
        return "\n".join([head, *self._rows(), *(f"  note: {note}" for note in self.notes)])

    def _rows(self) -> Iterator[str]:
        for kind in _KINDS:
            entries: tuple[TensorEntry, ...] = getattr(self, kind)
            if entries:
                elements = sum(entry.elements for entry in entries)
                yield f"  {kind:12} {len(entries):5} tensors {elements:13,} values  {_reasons(entries)}".rstrip()


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


def notes_of(
    network: nn.Module, alignment: Alignment, dtypes: Mapping[str, torch.dtype], missing: Sequence[TensorEntry]
) -> Iterator[str]:
    """Say in words what the lists of a report do not.

    Args:
        network: the network that the weights are for.
        alignment: of the file and the network.
        dtypes: of the tensors that are loaded, as the file has them, by canonical name.
        missing: tensors of the network that are not loaded.

    Yields:
        A sentence for each fact.
    """
    yield from _other_precision(network, alignment, dtypes)
    yield from _other_epsilon(network, alignment)
    yield from _left_as_they_were(network, missing)


def _reasons(entries: tuple[TensorEntry, ...]) -> str:
    """Group entries by reason, the commonest first, each with one example."""
    groups: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        groups[entry.reason].append(entry.name)
    common = sorted(groups.items(), key=lambda group: -len(group[1]))
    shown = [
        f"{reason} ({len(names)}, e.g. {names[0]})" if len(names) > 1 else f"{reason} ({names[0]})"
        for reason, names in common
        if reason
    ]
    return "; ".join(shown[:3]) + (f"; and {len(shown) - 3} more" if len(shown) > 3 else "")


def _size(shapes: Shapes, pattern: str, axis: int) -> int | None:
    return next(
        (shape[axis] for name, shape in shapes.items() if re.fullmatch(pattern, name) and len(shape) > axis), None
    )


def _depth(shapes: Shapes) -> int:
    return sum(bool(_BLOCKS.fullmatch(name)) for name in shapes)


def _has(names: Collection[str], pattern: str) -> bool:
    return any(re.fullmatch(pattern, name) for name in names)


def _other_precision(network: nn.Module, alignment: Alignment, dtypes: Mapping[str, torch.dtype]) -> Iterator[str]:
    own = network.state_dict()
    pairs = Counter((dtype, own[alignment.places[name]].dtype) for name, dtype in dtypes.items())
    for (theirs, ours), count in pairs.items():
        if theirs != ours:
            yield f"{count} tensors are {_name(theirs)} in the file and {_name(ours)} in the network"


def _other_epsilon(network: nn.Module, alignment: Alignment) -> Iterator[str]:
    norms = (network.get_submodule(path) for path in encoder_layers(network, (nn.LayerNorm,)))
    epsilons = sorted({norm.eps for norm in norms if isinstance(norm, nn.LayerNorm)})
    theirs = alignment.key_map.norm_eps
    if theirs is not None and epsilons and epsilons != [theirs]:
        ours = ", ".join(f"{eps:g}" for eps in epsilons)
        yield f"layer norms: epsilon {theirs:g} in files of this family, {ours} in the network, which was not changed"


def _left_as_they_were(network: nn.Module, missing: Sequence[TensorEntry]) -> Iterator[str]:
    dead = dead_parameters(network)
    totals = Counter(part_of(network, name) for name in network.state_dict() if name not in dead)
    counts = Counter(part_of(network, entry.name) for entry in missing)
    for part, count in counts.items():
        yield f"the {part} keeps the values that it had in {count} of {totals[part]} tensors"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
