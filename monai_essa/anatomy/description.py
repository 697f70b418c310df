# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Encoders that MONAI does not have, described once by whoever uses them.

A description says where the parts of an encoder are. It is passed as ``anatomy=`` and kept on the network, and from
then on the methods, objectives and adapter files treat the network as one of MONAI's. Nothing is recognised by the name
of a class, nothing is registered, and no file ever brings a description along: whoever loads an adapter passes it
again, and another one is refused.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from monai_essa.anatomy.parts import (
    DESCRIPTION,
    NetworkParts,
    check_images,
    divide_shape,
    encoder_trunk,
    layers_read_directly,
)
from monai_essa.anatomy.positions import interpolate_positions

__all__ = [
    "BlockDescription",
    "DescribedTokens",
    "EncoderDescription",
    "MapDescription",
    "TokenDescription",
    "describe",
    "described",
    "described_blocks",
    "description_facts",
    "is_described",
    "timm_vit",
]

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class BlockDescription:
    """Where the parts of a transformer block are, as paths from the block.

    Attributes:
        paths: regular expression, matched in full against the paths of the blocks from the encoder.
        qkv: the linear layer of queries, keys and values, or the three of them.
        output: the output projection of the attention.
        mlp: the two linear layers of the MLP; empty if it has other parts.
        norms: the normalisation layers.
        heads: path of the attribute with the number of heads, if one layer computes (query, key, value) of the first
            head, then those of the second, and so on; empty if it computes all queries, then all keys and all values.

    The block has to call its layers as modules. One that reads their weights itself, as torch's
    ``nn.MultiheadAttention`` and ``nn.TransformerEncoderLayer`` do, would not notice that a method has replaced them.
    """

    paths: str
    qkv: tuple[str, ...]
    output: str
    mlp: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    heads: str = ""

    def __post_init__(self) -> None:
        _without_lists(self)


@dataclass(frozen=True)
class TokenDescription:
    """An encoder that keeps one sequence of tokens, whose blocks attend over all of them; paths from the encoder.

    It computes ``final_norm(blocks(before_blocks([prefix, patches + positions])))``. An image of another size has its
    positions interpolated.

    Attributes:
        patch_embedding: the convolution that makes tokens of patches; its stride is its kernel.
        grid: attribute with the token grid that the positions were made for.
        positions: parameter (1, N, D), or (1, P + N, D) with a position for each of the P prefix tokens in front; empty
            if the encoder has none.
        prefix_tokens: parameters (1, n, D) in front of the patches, the class token first; those that are None on the
            network are left out.
        before_blocks: modules that all tokens pass before the first block, in order.
        final_norm: the norm behind the last block.
        antialias: whether positions are resampled with antialiasing, as timm does.
    """

    patch_embedding: str
    grid: str
    positions: str = ""
    prefix_tokens: tuple[str, ...] = ()
    before_blocks: tuple[str, ...] = ()
    final_norm: str = ""
    antialias: bool = False

    def __post_init__(self) -> None:
        _without_lists(self)


@dataclass(frozen=True)
class MapDescription:
    """An encoder that returns a feature map (B, channels, spatial...), or a list of them with the deepest one last.

    Attributes:
        in_channels: image channels.
        channels: channels of the deepest map.
        stride: voxels between neighbouring positions of the deepest map along each axis.
        method: of the encoder, called with the images.
    """

    in_channels: int
    channels: int
    stride: tuple[int, ...]
    method: str = "forward"

    def __post_init__(self) -> None:
        _without_lists(self)


@dataclass(frozen=True)
class EncoderDescription:
    r"""What this package has to know of an encoder that is not one of MONAI's.

    Attributes:
        output: what comes out of the encoder, :class:`TokenDescription` or :class:`MapDescription`.
        blocks: the transformer blocks; None for an encoder without attention.
        prefix: of the names of all tensors of the encoder, such as ``"image_encoder."``; empty if it is the network.
        head: regular expression for the start of the names, after the prefix, that are not the encoder's but those of a
            classifier behind it. What is outside the prefix counts as the decoder.

    Example:
        >>> from monai_essa import adapt
        >>> from monai_essa.methods import LoRA
        >>> class Own(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.stem = nn.Conv2d(1, 8, 4, 4)
        ...         self.neck = nn.Conv2d(8, 8, 3, padding=1)
        ...     def forward(self, x):
        ...         return self.neck(self.stem(x))
        >>> anatomy = EncoderDescription(MapDescription(in_channels=1, channels=8, stride=(4, 4)))
        >>> net = adapt(Own(), LoRA(rank=2, targets=("conv",)), anatomy=anatomy)
        >>> sorted(name for name, p in net.named_parameters() if p.requires_grad)[:2]
        ['neck.lora_A', 'neck.lora_B']
    """

    output: TokenDescription | MapDescription
    blocks: BlockDescription | None = None
    prefix: str = ""
    head: str = ""

    def parts(self, network: nn.Module) -> NetworkParts:
        """Return the row that the table of network classes would have for the network."""
        return NetworkParts(
            type(network),
            "described",
            prefix=self.prefix,
            head=re.escape(self.prefix) + f"(?:{self.head})" if self.head else "(?!)",
            encoder=f"(?!{self.head})" if self.head else "",
            token_grid=_token_grid if isinstance(self.output, TokenDescription) else None,
        )


def timm_vit() -> EncoderDescription:
    """Describe timm's ``VisionTransformer``, with which DINOv2, MAE, CLIP and supervised ViTs are published.

    LayerScale, register tokens, query and key norms and a norm in front of the blocks are part of it. timm itself is
    not imported; build the network with it, with ``patch_drop_rate`` 0.

    Example:
        >>> timm_vit().blocks.output
        'attn.proj'
    """
    return EncoderDescription(
        output=TokenDescription(
            patch_embedding="patch_embed.proj",
            grid="patch_embed.grid_size",
            positions="pos_embed",
            prefix_tokens=("cls_token", "reg_token"),
            before_blocks=("pos_drop", "norm_pre"),
            final_norm="norm",
            antialias=True,
        ),
        blocks=BlockDescription(
            r"blocks\.\d+", ("attn.qkv",), "attn.proj", mlp=("mlp.fc1", "mlp.fc2"), norms=("norm1", "norm2")
        ),
        head=r"(head|fc_norm|attn_pool)\.",
    )


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


def described(network: nn.Module) -> tuple[EncoderDescription, str] | None:
    """Return the description of a network, or of the encoder in a classifier, and the prefix of the encoder's names."""
    kept: EncoderDescription | None = vars(network).get(DESCRIPTION)
    if kept is not None:
        return kept, kept.prefix
    encoder = network._modules.get("encoder") if type(network) is nn.Sequential else None
    inner: EncoderDescription | None = None if encoder is None else vars(encoder).get(DESCRIPTION)
    return None if inner is None else (inner, "encoder.")


def is_described(network: nn.Module) -> bool:
    """Tell whether a network itself has a description."""
    return DESCRIPTION in vars(network)


def described_blocks(network: nn.Module, anatomy: EncoderDescription, prefix: str) -> Iterator[str]:
    """Yield the paths of the transformer blocks in the order of the network's modules."""
    if anatomy.blocks is not None:
        for path, _ in network.named_modules():
            if path.startswith(prefix) and re.fullmatch(anatomy.blocks.paths, path.removeprefix(prefix)):
                yield path


def description_facts(network: nn.Module) -> dict[str, str]:
    """Return the values of a network's description as text by name; empty for a network of MONAI.

    Where the encoder stands in its network is left out: an adapter moves between an encoder and a network with it.
    """
    found = described(network)
    if found is None:
        return {}
    values = {"output": found[0].output, "blocks": found[0].blocks}
    return {
        f"description {part}.{name}": f"{type(value).__name__} {text!r}"
        for part, value in values.items()
        if value is not None
        for name, text in dataclasses.asdict(value).items()
    }


@dataclass(frozen=True, eq=False)
class DescribedTokens:
    """The tokens of a described encoder; attributes and methods are those of the view of MONAI's ViT.

    Shapes use B for images, N for patches of an image, P for prefix tokens and D for features of a token.

    Attributes:
        network: the network that holds the encoder; not a copy.
        anatomy: its description.
    """

    network: nn.Module
    anatomy: TokenDescription

    @property
    def patch_embedding(self) -> nn.Module:
        """The convolution whose output a mask token replaces, before positions are added."""
        return _trunk(self.network).get_submodule(self.anatomy.patch_embedding)

    @property
    def patch_size(self) -> tuple[int, ...]:
        """Voxels of a patch along each axis."""
        return tuple(self._weight.shape[2:])

    @property
    def in_channels(self) -> int:
        """Image channels."""
        return self._weight.shape[1]

    @property
    def hidden_size(self) -> int:
        """D."""
        return self._weight.shape[0]

    @property
    def native_grid(self) -> tuple[int, ...]:
        """The token grid that the network was built for."""
        return _token_grid(self.network)

    @property
    def spatial_dims(self) -> int:
        """Number of spatial axes."""
        return len(self.patch_size)

    @property
    def stride(self) -> tuple[int, ...]:
        """Voxels between neighbouring tokens along each axis."""
        return self.patch_size

    @property
    def has_class_token(self) -> bool:
        """Whether the first prefix token is there."""
        return bool(self.anatomy.prefix_tokens) and _tensor(self.network, self.anatomy.prefix_tokens[0]) is not None

    def check(self, images: Tensor) -> None:
        """Raise a ValueError unless the images are (B, in_channels, spatial...)."""
        check_images(images, self.in_channels, self.spatial_dims)

    def grid(self, spatial_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the token grid of an image of this spatial shape; ValueError if the patch size does not divide it."""
        return divide_shape(spatial_shape, self.patch_size, self.patch_size)

    def embed(self, images: Tensor) -> Tensor:
        """Embed the patches of images (B, in_channels, spatial...) and add their positions; (B, N, D)."""
        self.check(images)
        grid = self.grid(images.shape[2:])
        tokens = self.patch_embedding(images).flatten(2).transpose(1, 2)  # (B, D, grid...) -> (B, N, D)
        table = _tensor(self.network, self.anatomy.positions)
        if table is None:
            return tokens
        own = table[:, table.shape[1] - math.prod(self.native_grid) :]
        return tokens + interpolate_positions(own, self.native_grid, grid, self.anatomy.antialias)

    def encode(self, tokens: Tensor) -> Tensor:
        """Run the blocks and the final norm on tokens (B, N', D), any subset of an image's; (B, N', D)."""
        return self.encode_all(tokens)[:, -tokens.shape[1] :]

    def encode_all(self, tokens: Tensor) -> Tensor:
        """Run the encoder as :meth:`encode` does, and return the prefix tokens in front; (B, P + N', D)."""
        trunk = _trunk(self.network)
        tokens = torch.cat([*self._prefix(len(tokens)), tokens], dim=1)
        last = (self.anatomy.final_norm,) if self.anatomy.final_norm else ()
        inner = [path.removeprefix(self._root) for path in self._blocks]
        for path in (*self.anatomy.before_blocks, *inner, *last):
            tokens = trunk.get_submodule(path)(tokens)
        return tokens

    def _prefix(self, batch: int) -> list[Tensor]:
        found = (_tensor(self.network, path) for path in self.anatomy.prefix_tokens)
        tokens = [token for token in found if token is not None]
        if not tokens:
            return []
        prefix, table = torch.cat(tokens, dim=1), _tensor(self.network, self.anatomy.positions)
        if table is not None and table.shape[1] > math.prod(self.native_grid):
            prefix = prefix + table[:, : prefix.shape[1]]
        return [prefix.expand(batch, -1, -1)]

    @property
    def _root(self) -> str:
        return _found(self.network)[1]

    @property
    def _blocks(self) -> Iterator[str]:
        return described_blocks(self.network, *_found(self.network))

    @property
    def _weight(self) -> Tensor:
        weight: Tensor = self.patch_embedding.weight  # type: ignore[assignment]
        return weight


def _without_lists(parts: Any) -> None:
    """Store lists as tuples, so that a description from YAML equals one from Python."""
    for name, value in vars(parts).items():
        if isinstance(value, list):
            object.__setattr__(parts, name, tuple(value))


def _found(network: nn.Module) -> tuple[EncoderDescription, str]:
    found: Any = described(network)  # a view is made of described networks only
    return found


def _trunk(network: nn.Module) -> nn.Module:
    trunk: nn.Module = encoder_trunk(network)
    return trunk


def _tensor(network: nn.Module, path: str) -> Tensor | None:
    """Return a tensor of the encoder, None if there is none or no path."""
    return operator.attrgetter(path)(_trunk(network)) if path else None


def _token_grid(network: nn.Module) -> tuple[int, ...]:
    output: Any = _found(network)[0].output
    return tuple(operator.attrgetter(output.grid)(_trunk(network)))


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
