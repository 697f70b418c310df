# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Make a classifier of the encoder of a MONAI network: pooling, norm and a linear layer behind it, of stock classes."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from monai.networks.layers import SkipConnection
from monai.networks.nets import DenseNet, ResNet, SegResNet, UNet, ViT
from torch import Tensor

from monai_essa.anatomy.described.description import EncoderDescription, described
from monai_essa.anatomy.described.fit import describe
from monai_essa.anatomy.encoders import FeatureMapEncoder, encoder_view
from monai_essa.anatomy.parts import encoder_trunk, part_of, parts_of
from monai_essa.anatomy.positions import keep_grid, kept_grid

__all__ = ["classification_network"]

_POOLINGS = ("mean", "attention", "flatten")
_STAGES = ("layer1", "layer2", "layer3", "layer4")


def classification_network(
    network: nn.Module, num_classes: int, pooling: str = "mean", anatomy: EncoderDescription | None = None
) -> nn.Sequential:
    r"""Put a pooling, a LayerNorm and a linear layer behind the encoder of a MONAI network, in place.

    Its logits are :math:`W\,\mathrm{LN}(\sum_n a_n t_n) + b` over the N final tokens t of the encoder, or the positions
    of its deepest feature map. ``"mean"``: :math:`a_n = 1/N`; for a ViT with a class token (``classification=True``)
    that token alone is used. ``"attention"``: :math:`a = \mathrm{softmax}(t\,w + c)` with a learned w (Ilse et al.
    2018, arXiv 1802.04712, equation 8 without its hidden layer). ``"flatten"``, for a ViT: all tokens side by side,
    (N D) features without a sum, so that the linear layer knows the place of each token; it then fits one image size.

    It consists of MONAI and torch classes only, joined by forward hooks. Its state dict therefore loads into an
    ``nn.Sequential`` that is built without this library, as in the inference.yaml of the bundle.

    Args:
        network: a ViT, UNETR, SwinUNETR, SegResNet, SegResNetDS, UNet, ResNet or DenseNet. Its encoder becomes a part
            of the result, shares its tensors and returns tokens from then on: use the result instead of the network.
            The classifier that a ResNet or DenseNet has of its own is left out.
        num_classes: number of logits of an image.
        pooling: ``"mean"``, ``"attention"`` or ``"flatten"``.
        anatomy: where the parts of an encoder are that MONAI does not have; None if the network knows. Such an encoder
            keeps its class, and a classifier behind it is left out.

    Returns:
        A Sequential of ``encoder`` -> (B, N, D), ``pool`` -> (B, D) or (B, N D), ``head_norm`` and ``head`` ->
        (B, num_classes). Names in ``encoder`` are those of the network's own encoder, so weights and adapters move
        between the two.

    Raises:
        TypeError: if the network is of another class. The encoders of MaskedAutoEncoderViT and ViTAutoEnc have no
            forward of their own; their weights load into a ViT.
        ValueError: if the pooling is unknown, or ``"flatten"`` for another network than a ViT or UNETR.

    Example:
        >>> from monai.networks.nets import UNETR
        >>> unetr = UNETR(1, 2, 32, feature_size=8, hidden_size=48, mlp_dim=96, num_heads=4)
        >>> classifier = classification_network(unetr, num_classes=3)
        >>> classifier(torch.zeros(2, 1, 32, 32, 32)).shape, [name for name, _ in classifier.named_children()]
        (torch.Size([2, 3]), ['encoder', 'pool', 'head_norm', 'head'])
    """
    if pooling not in _POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(_POOLINGS)}, got {pooling!r}")
    if anatomy is not None:
        describe(network, anatomy)
    if not parts_of(network).runs_alone:
        raise TypeError(
            f"the encoder of a {type(network).__name__} has no forward of its own: load its weights into a ViT"
        )
    view = encoder_view(network)
    features = view.channels if isinstance(view, FeatureMapEncoder) else view.hidden_size
    if pooling == "flatten":
        features *= _token_count(network)
    head_norm, head = nn.LayerNorm(features), nn.Linear(features, num_classes)
    if described(network) is not None:
        encoder = _described_encoder(network, class_token=pooling == "mean")
        return _sequence(encoder=encoder, pool=_pool(pooling, features), head_norm=head_norm, head=head)
    grid = kept_grid(network)
    encoder, pool = _encoder(network), _pool(pooling, features)
    if grid is not None:
        keep_grid(encoder, grid)  # a UNETR knows its grid, the ViT inside it does not
    class_token = pooling == "mean" and hasattr(encoder, "cls_token")
    encoder.register_forward_hook(_class_token if class_token else _tokens)
    return _sequence(encoder=encoder, pool=pool, head_norm=head_norm, head=head)


def _pool(pooling: str, features: int) -> nn.Module:
    """Build the pooling; "flatten" lays the tokens side by side in their order, (B, N, D) to (B, N D)."""
    if pooling == "flatten":
        return nn.Flatten()
    pool = nn.Identity() if pooling == "mean" else nn.Linear(features, 1)
    pool.register_forward_hook(_mean_token if pooling == "mean" else _attended_token)
    return pool


def _token_count(network: Any) -> int:
    """Count the tokens of a ViT, including its class token, for the image size that it was built for."""
    trunk: Any = encoder_trunk(network)
    if not isinstance(trunk, ViT):
        raise ValueError(
            f"pooling 'flatten' needs a ViT or UNETR, built for one image size, got {type(network).__name__}; "
            "take mean or attention"
        )
    return int(trunk.patch_embedding.n_patches) + hasattr(trunk, "cls_token")


def _encoder(network: Any) -> nn.Module:
    """Return the encoder as a module of its own, with the names that it has in the network."""
    if isinstance(network, ViT) and hasattr(network, "classification_head"):
        del network.classification_head
    if isinstance(network, SegResNet):
        dropout = {} if network.dropout_prob is None else {"dropout": network.dropout}
        return _sequence(convInit=network.convInit, **dropout, down_layers=nn.Sequential(*network.down_layers))
    if isinstance(network, UNet):
        return _sequence(model=_way_down(network.model))
    if isinstance(network, ResNet):
        names = ("conv1", "bn1", "act", *(() if network.no_max_pool else ("maxpool",)))
        return _sequence(**{name: getattr(network, name) for name in (*names, *_STAGES)})
    if isinstance(network, DenseNet):
        features: nn.Module = network.features
        activation: Any = network.class_layers.relu
        return _sequence(**dict(features.named_children()), relu5=activation)
    trunk: nn.Module = encoder_trunk(network)
    return trunk


def _described_encoder(network: nn.Module, class_token: bool) -> nn.Module:
    """Return a described encoder without its own classifier, whose forward pass returns tokens (B, N, D)."""
    encoder: nn.Module = encoder_trunk(network)
    for name, _ in list(encoder.named_children()):
        if part_of(encoder, f"{name}.") == "head":
            setattr(encoder, name, nn.Identity())
    vars(encoder)["forward"] = partial(_described_tokens, encoder, class_token)
    return encoder


def _described_tokens(encoder: nn.Module, class_token: bool, images: Tensor) -> Tensor:
    view: Any = encoder_view(encoder)
    if isinstance(view, FeatureMapEncoder):
        return view.features(images)[-1].flatten(2).transpose(1, 2)
    tokens: Tensor = view.embed(images)
    encoded: Tensor = view.encode_all(tokens)
    return encoded[:, :1] if class_token and view.has_class_token else encoded[:, -tokens.shape[1] :]


def _way_down(level: nn.Module) -> nn.Module:
    """Remove the skip connections and the way up from a level of a UNet; the other names do not change."""
    if not (isinstance(level, nn.Sequential) and len(level) == 3 and isinstance(level[1], SkipConnection)):
        return level  # the bottom
    inner: Any = level[1].submodule
    return nn.Sequential(OrderedDict({"0": level[0], "1": _sequence(submodule=_way_down(inner))}))


def _sequence(**parts: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(parts))


def _tokens(encoder: nn.Module, inputs: Any, output: Any) -> Tensor:
    """Return the tokens of a ViT's (tokens, hidden states), or the last map of a list, as (B, N, D)."""
    features: Tensor = output[-1] if isinstance(output, list) else output[0] if isinstance(output, tuple) else output
    return features.flatten(2).transpose(1, 2) if features.dim() > 3 else features


def _class_token(encoder: nn.Module, inputs: Any, output: Any) -> Tensor:
    tokens: Tensor = output[0]
    return tokens[:, :1]  # (B, 1, D)


def _mean_token(pool: nn.Module, inputs: Any, tokens: Tensor) -> Tensor:
    return tokens.mean(1)  # (B, D)


def _attended_token(pool: nn.Module, inputs: tuple[Tensor], scores: Tensor) -> Tensor:
    return (torch.softmax(scores, dim=1) * inputs[0]).sum(1)  # (B, D)
