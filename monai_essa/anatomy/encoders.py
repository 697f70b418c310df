# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""View the encoder of any MONAI network in one way: images in, tokens or feature maps out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn as nn
from monai.networks.layers import SkipConnection
from monai.utils import ensure_tuple_rep
from torch import Tensor

from monai_essa.anatomy.described.description import EncoderDescription, TokenDescription, described
from monai_essa.anatomy.described.fit import describe
from monai_essa.anatomy.described.tokens import DescribedTokens
from monai_essa.anatomy.parts import DESCRIPTION, NETWORK_PARTS, check_images, divide_shape, encoder_trunk, parts_of
from monai_essa.anatomy.positions import check_grid, interpolate_positions, kept_grid

__all__ = [
    "FeatureMapEncoder",
    "TokenEncoder",
    "densenet_encoder",
    "encoder_view",
    "resnet_encoder",
    "segresnet_ds_encoder",
    "segresnet_encoder",
    "unet_encoder",
    "unet_levels",
]

Maps = Callable[[Any, Tensor], list[Tensor]]


def encoder_view(
    network: nn.Module, grid: Sequence[int] | None = None, anatomy: EncoderDescription | None = None
) -> TokenEncoder | DescribedTokens | FeatureMapEncoder:
    """View the encoder of a MONAI network, or of a described one, plain or adapted.

    Args:
        network: a ViT, UNETR, ViTAutoEnc, MaskedAutoEncoderViT (its encoder half), SwinUNETR (version 1 or 2),
            SegResNet, SegResNetDS, UNet, ResNet or DenseNet, 2-D or 3-D. It is not changed.
        grid: the token grid that the network was built for, ``img_size / patch_size``. A ViT does not keep it, so it is
            needed for crops of another size unless :func:`keep_grid` has set it.
        anatomy: the description of an encoder that MONAI does not have, which is kept on the network; None if it has
            one, or is one of MONAI's.

    Returns:
        A :class:`TokenEncoder` (:class:`DescribedTokens` for a described encoder), or a :class:`FeatureMapEncoder` for
        SwinUNETR and the CNNs.

    Raises:
        TypeError: if the network is of another class.
        ValueError: if the grid is not that of the network, or if the network has no position embeddings.

    Example:
        >>> import torch
        >>> from monai.networks.nets import ViT
        >>> net = ViT(1, 32, 8, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4)
        >>> view = encoder_view(net, grid=(4, 4, 4))
        >>> view.encode(view.embed(torch.zeros(2, 1, 16, 32, 32))).shape
        torch.Size([2, 32, 48])
    """
    if anatomy is not None:
        describe(network, anatomy)
    layout = parts_of(network).layout
    if not layout:
        raise TypeError(
            f"expected one of {', '.join(parts.kind.__name__ for parts in NETWORK_PARTS)}, got a classifier "
            f"({type(network).__name__}); pass the network that it was made of"
        )
    view = _VIEWS[layout](network)
    return view if grid is None else _with_grid(network, view, grid)


@dataclass(frozen=True, eq=False)
class TokenEncoder:
    """An encoder that turns patches into tokens: ViT, UNETR, ViTAutoEnc and the encoder of MaskedAutoEncoderViT.

    Modules are looked up at each call, so that layers which an adapter has replaced in place are the ones that run.
    Shapes use B for images, N for patches of an image and D for features of a token.

    Attributes:
        network: the network that holds the encoder; not a copy.
        patch_size: voxels of a patch along each axis, equal to ``stride``.
        in_channels: image channels.
        hidden_size: D.
        native_grid: the token grid that the network was built for; None for a ViT, which does not keep it, unless
            :func:`keep_grid` has set it.
    """

    network: nn.Module
    patch_size: tuple[int, ...]
    in_channels: int
    hidden_size: int
    native_grid: tuple[int, ...] | None

    @property
    def spatial_dims(self) -> int:
        """Number of spatial axes."""
        return len(self.patch_size)

    @property
    def stride(self) -> tuple[int, ...]:
        """Voxels between neighbouring tokens along each axis."""
        return self.patch_size

    @property
    def patch_embedding(self) -> nn.Module:
        """The module whose output a mask token replaces: the patch projection, before positions are added."""
        projection: nn.Module = encoder_trunk(self.network).patch_embedding.patch_embeddings
        return projection

    def check(self, images: Tensor) -> None:
        """Raise a ValueError unless the images are (B, in_channels, spatial...)."""
        check_images(images, self.in_channels, self.spatial_dims)

    def grid(self, spatial_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the token grid of an image of this spatial shape; ValueError if the patch size does not divide it."""
        return divide_shape(spatial_shape, self.patch_size, self.patch_size)

    def embed(self, images: Tensor) -> Tensor:
        """Embed the patches and add their positions, interpolated if the crop is not of the network's size.

        Args:
            images: (B, in_channels, spatial...), any spatial shape that the patch size divides.

        Returns:
            Tokens (B, N, D) in row-major order of the grid.

        Raises:
            ValueError: if the images have other channels or axes, if the patch size does not divide them, or if
                positions have to be interpolated from an unknown grid.
        """
        self.check(images)
        grid = self.grid(images.shape[2:])
        embedding = encoder_trunk(self.network).patch_embedding
        tokens = embedding.patch_embeddings(images)
        if embedding.proj_type == "conv":
            tokens = tokens.flatten(2).transpose(1, 2)  # (B, D, grid...) -> (B, N, D)
        positions = embedding.position_embeddings
        source = self.native_grid or _same_grid(positions.shape[1], grid)
        tokens = tokens + interpolate_positions(positions, source, grid)
        return embedding.dropout(tokens)

    def encode(self, tokens: Tensor) -> Tensor:
        """Run the transformer blocks and the final norm on any subset of the tokens.

        Args:
            tokens: (B, N', D), with their positions added; all of them or, as MAE does, the visible ones only.

        Returns:
            Final tokens (B, N', D). The class token, if the network has one, takes part but is not returned.
        """
        return self.encode_all(tokens)[:, -tokens.shape[1] :]

    def encode_all(self, tokens: Tensor) -> Tensor:
        """Run the encoder as :meth:`encode` does, and return the class token in front if the network has one.

        Args:
            tokens: (B, N', D).

        Returns:
            Final tokens (B, N', D), or (B, 1 + N', D) with the class token.
        """
        trunk = encoder_trunk(self.network)
        if (class_token := getattr(trunk, "cls_token", None)) is not None:
            tokens = torch.cat([class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        for block in trunk.blocks:
            tokens = block(tokens)
        # MaskedAutoEncoderViT has no ``norm``: its final norm is the last of its blocks.
        if (norm := getattr(trunk, "norm", None)) is not None:
            tokens = norm(tokens)
        return tokens


@dataclass(frozen=True, eq=False)
class FeatureMapEncoder:
    """An encoder that returns feature maps of decreasing resolution: the Swin transformer of SwinUNETR, or a CNN's.

    Attributes:
        network: the network that holds the encoder; not a copy.
        patch_size: voxels of a patch of the patch embedding along each axis; 1 for a CNN, which does not embed patches.
        in_channels: image channels.
        hidden_size: channels of the patch embedding, which is what a mask token replaces; a CNN's image channels.
        channels: channels of the deepest feature map.
        stride: voxels between neighbouring positions of the deepest feature map along each axis.
        maps: computes the feature maps, finest first, from the network and images (B, in_channels, spatial...).
    """

    network: nn.Module
    patch_size: tuple[int, ...]
    in_channels: int
    hidden_size: int
    channels: int
    stride: tuple[int, ...]
    maps: Callable[[Any, Tensor], list[Tensor]]

    @property
    def spatial_dims(self) -> int:
        """Number of spatial axes."""
        return len(self.patch_size)

    @property
    def patch_embedding(self) -> nn.Module | None:
        """The module whose output a mask token replaces; None for a CNN, whose image voxels it replaces."""
        return None if described(self.network) else getattr(encoder_trunk(self.network), "patch_embed", None)

    def check(self, images: Tensor) -> None:
        """Raise a ValueError unless the images are (B, in_channels, spatial...)."""
        check_images(images, self.in_channels, self.spatial_dims)

    def grid(self, spatial_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the grid of the patch embedding for this shape; ValueError if the stride does not divide the shape."""
        return divide_shape(spatial_shape, self.patch_size, self.stride)

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps, finest first.

        Args:
            images: (B, in_channels, spatial...), any spatial shape that the stride divides.

        Returns:
            The output of each stage, (B, C_i, spatial_i...), for SwinUNETR with the patch embedding in front.

        Raises:
            ValueError: if the images have other channels or axes, or the stride does not divide them.
        """
        self.check(images)
        self.grid(images.shape[2:])
        return self.maps(self.network, images)


def segresnet_encoder(network: Any) -> FeatureMapEncoder:
    """View the encoder of a SegResNet: one feature map for each level, each half the size of the one before."""
    stride = 2 ** (len(network.blocks_down) - 1)
    steps = ensure_tuple_rep(stride, network.spatial_dims)
    return _view(network, network.in_channels, network.init_filters * stride, steps, _segresnet_maps)


def segresnet_ds_encoder(network: Any) -> FeatureMapEncoder:
    """View the encoder of a SegResNetDS; with anisotropic scales the stride differs between axes."""
    channels = network.init_filters * 2 ** (len(network.blocks_down) - 1)
    steps = tuple(int(step) for step in network.shape_factor())
    return _view(network, network.encoder.conv_init.in_channels, channels, steps, _segresnet_ds_maps)


def unet_encoder(network: Any) -> FeatureMapEncoder:
    """View the encoder of a UNet: the way down, from the first level to the bottom."""
    taken = network.strides[: len(network.channels) - 1]
    by_axis = zip(*(ensure_tuple_rep(step, network.dimensions) for step in taken), strict=True)
    steps = tuple(math.prod(axis) for axis in by_axis)
    return _view(network, network.in_channels, network.channels[-1], steps, _unet_maps)


def resnet_encoder(network: Any) -> FeatureMapEncoder:
    """View the encoder of a ResNet: the first convolution and the four stages, as ``ResNetFeatures`` returns them.

    Raises:
        ValueError: if the first convolution has an even kernel, whose padding gives maps that no stride describes.
    """
    first = network.conv1
    if any(size % 2 == 0 for size in first.kernel_size):
        raise ValueError(
            f"expected a ResNet with an odd conv1_t_size, got {first.kernel_size}: its feature maps are a row larger "
            "than the image divided by the stride"
        )
    pooled = 1 if network.no_max_pool else 2
    steps = tuple(step * pooled * 8 for step in first.stride)  # stages 2 to 4 halve the map
    return _view(network, first.in_channels, network.in_planes, steps, _resnet_maps)


def densenet_encoder(network: Any) -> FeatureMapEncoder:
    """View the encoder of a DenseNet: one map after the first convolution and after each block, the last one normed."""
    first, blocks = network.features.conv0, _dense_blocks(network)
    steps = tuple(step * 2 ** len(blocks) for step in first.stride)  # the pooling, then a transition between two blocks
    return _view(network, first.in_channels, network.class_layers.out.in_features, steps, _densenet_maps)


def unet_levels(network: Any) -> Iterator[nn.Module]:
    """Yield the layers of a UNet from its first level to the bottom; each level holds the next in a skip connection."""
    level = network.model
    while isinstance(level, nn.Sequential) and len(level) == 3 and isinstance(level[1], SkipConnection):
        yield level[0]
        level = level[1].submodule
    yield level


def _view_tokens(network: nn.Module) -> TokenEncoder:
    embedding = encoder_trunk(network).patch_embedding
    if embedding.proj_type == "conv":
        hidden_size, in_channels, *patch_size = embedding.patch_embeddings.weight.shape
    else:
        rearrange, linear = embedding.patch_embeddings
        patch_size = [size for _, size in sorted(rearrange.axes_lengths.items())]
        hidden_size, in_channels = linear.weight.shape[0], linear.weight.shape[1] // math.prod(patch_size)
    return TokenEncoder(network, tuple(patch_size), in_channels, hidden_size, kept_grid(network))


def _with_grid(network: nn.Module, view: Any, grid: Sequence[int]) -> TokenEncoder:
    if isinstance(view, FeatureMapEncoder):
        raise ValueError(f"{type(network).__name__} has no position embeddings, so it has no grid; leave grid out")
    if isinstance(view, DescribedTokens):
        raise ValueError(f"the description of {type(network).__name__} says where its grid is; leave grid out")
    return replace(view, native_grid=check_grid(network, grid))


def _view_swin(network: nn.Module) -> FeatureMapEncoder:
    trunk = encoder_trunk(network)
    hidden_size, in_channels, *patch_size = trunk.patch_embed.proj.weight.shape
    halvings = 2**trunk.num_layers  # each stage ends with a merging of 2 patches along each axis
    stride = tuple(size * halvings for size in patch_size)
    return FeatureMapEncoder(
        network, tuple(patch_size), in_channels, hidden_size, hidden_size * halvings, stride, _swin_maps
    )


def _swin_maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    return list(encoder_trunk(network)(images, network.normalize))


def _same_grid(count: int, grid: tuple[int, ...]) -> tuple[int, ...]:
    """Return the crop's grid if a ViT has as many positions, as its forward pass does; never guess another grid."""
    if count == math.prod(grid):
        return grid
    raise ValueError(
        f"cannot interpolate the {count} position embeddings of this ViT to the grid {grid}: a ViT does not keep the "
        "grid that it was built for; say it by keep_grid(network, grid) or encoder_view(network, grid=...), "
        "img_size / patch_size of the network, or use crops of that size"
    )


def _view(network: Any, in_channels: int, channels: int, stride: tuple[int, ...], maps: Maps) -> FeatureMapEncoder:
    # A convolution takes the image voxel by voxel: patches of 1, and a mask token of the image's channels.
    voxel = (1,) * len(stride)
    return FeatureMapEncoder(network, voxel, in_channels, in_channels, channels, stride, maps)


def _segresnet_maps(network: Any, images: Tensor) -> list[Tensor]:
    return list(network.encode(images)[1])


def _segresnet_ds_maps(network: Any, images: Tensor) -> list[Tensor]:
    return list(network.encoder(images))


def _unet_maps(network: Any, images: Tensor) -> list[Tensor]:
    maps: list[Tensor] = []
    for layer in unet_levels(network):
        maps.append(layer(maps[-1] if maps else images))
    return maps


def _view_described(network: nn.Module) -> DescribedTokens | FeatureMapEncoder:
    anatomy: Any = vars(network)[DESCRIPTION]
    if isinstance(anatomy.output, TokenDescription):
        return DescribedTokens(network, anatomy.output)
    return _view(
        network, anatomy.output.in_channels, anatomy.output.channels, tuple(anatomy.output.stride), _described_maps
    )


def _described_maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    trunk = encoder_trunk(network)  # its class is asked: in a classifier its own forward makes tokens of these maps
    maps = getattr(type(trunk), vars(network)[DESCRIPTION].output.method)(trunk, images)
    return list(maps) if isinstance(maps, (list, tuple)) else [maps]


def _resnet_maps(network: Any, images: Tensor) -> list[Tensor]:
    maps = [network.act(network.bn1(network.conv1(images)))]
    hidden = maps[0] if network.no_max_pool else network.maxpool(maps[0])
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        hidden = stage(hidden)
        maps.append(hidden)
    return maps


def _densenet_maps(network: Any, images: Tensor) -> list[Tensor]:
    maps, hidden = [], images
    for name, layer in network.features.named_children():
        hidden = layer(hidden)
        if name == "relu0" or name in _dense_blocks(network):
            maps.append(hidden)
    return [*maps[:-1], network.class_layers.relu(hidden)]  # the activation behind the last norm, as its head has it


def _dense_blocks(network: Any) -> list[str]:
    return [name for name, _ in network.features.named_children() if name.startswith("denseblock")]


# By the layout that the table of network classes names.
_VIEWS: dict[str, Callable[[Any], TokenEncoder | DescribedTokens | FeatureMapEncoder]] = {
    "described": _view_described,
    "tokens": _view_tokens,
    "swin": _view_swin,
    "segresnet": segresnet_encoder,
    "segresnet_ds": segresnet_ds_encoder,
    "unet": unet_encoder,
    "resnet": resnet_encoder,
    "densenet": densenet_encoder,
}
