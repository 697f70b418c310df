# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The network of each stage: built, loaded or drawn from a seed, and adapted."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn as nn

from monai_essa.adapters.adaptation import adapt
from monai_essa.adapters.adapted import adaptation_of
from monai_essa.adapters.file import load_adapter
from monai_essa.adapters.summary import summary
from monai_essa.anatomy import encoder_view, keep_grid
from monai_essa.anatomy.parts import dead_parameters, encoder_trunk, part_of
from monai_essa.anatomy.positions import has_positions
from monai_essa.data.loading.keyed import key
from monai_essa.licence import keep_origin
from monai_essa.methods import AdaptationMethod, FullTuning
from monai_essa.methods.apla import APLALinear
from monai_essa.outside import switch
from monai_essa.weights import FirstLayer, load_weights

__all__ = [
    "adapted_network",
    "check_crop_size",
    "initialise",
    "merged_network",
    "pretext_network",
    "supervised_network",
    "trained_network",
]

_logger = logging.getLogger(__name__)
_STARTS = ("random", "encoder", "adapter")
_PARTS_BESIDE: dict[str, tuple[str, ...]] = {"encoder": (), "network": ("decoder", "head")}
_STD = 0.02
_INITIALISATIONS = ("method", "random")


def pretext_network(
    network: nn.Module,
    method: AdaptationMethod | Sequence[AdaptationMethod],
    pretrained: str | Path | None = None,
    also_train: Sequence[str] = (),
    own_decoder: bool = False,
    img_size: Sequence[int] | None = None,
    pretrained_prefix: str | None = None,
    pretrained_img_size: Sequence[int] | None = None,
    first_layer: FirstLayer | None = None,
) -> nn.Module:
    """Make the network of a self-supervised stage: load the pretrained weights, then adapt. In place.

    Args:
        network: a plain MONAI network.
        method: a method, or several.
        pretrained: a weight file for the encoder; None only with :class:`FullTuning`, which pre-trains from nothing.
        also_train: patterns of what trains beside the method, such as the decoder that SimMIM reconstructs with.
        own_decoder: the objective predicts through the network's decoder, which then has to be loaded or to learn.
        img_size: voxels that the network was built for. A ViT does not keep them: they are kept on it here, and
            position embeddings of weights for another size are interpolated to them.
        pretrained_prefix: prefix of the names of the network to load, for a weight file that holds several networks.
        pretrained_img_size: voxels that the file's position embeddings were trained for, if the file does not say and
            ``load_weights`` asks for it.
        first_layer: how the convolution that reads the image is fitted to other channels, depths or patches.

    Returns:
        The same network, adapted.

    Raises:
        ValueError: if a parameter-efficient method has no pretrained weights, a decoder that is used would stay random,
            or as ``load_weights`` and ``adapt`` say.
        TypeError: if ``own_decoder`` is a text, as a command line passes for ``true`` and ``false``.

    Example:
        >>> from monai.networks.nets import ViT
        >>> net = pretext_network(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), FullTuning())
        >>> net.norm.weight.requires_grad
        True
    """
    _keep_img_size(network, img_size)
    loaded = _load_or_refuse(network, method, pretrained, pretrained_prefix, pretrained_img_size, first_layer)
    adapt(network, method, also_train)
    _refuse_random_part(network, loaded, ("decoder",) if switch("own_decoder", own_decoder) else ())
    _logger.info("what learns:\n%s", summary(network).table())
    return network


def supervised_network(
    network: nn.Module,
    start: str,
    method: AdaptationMethod | Sequence[AdaptationMethod],
    also_train: Sequence[str] = (),
    pretrained: str | Path | None = None,
    adapter: str | Path | None = None,
    img_size: Sequence[int] | None = None,
    pretrained_prefix: str | None = None,
    pretrained_img_size: Sequence[int] | None = None,
    first_layer: FirstLayer | None = None,
) -> nn.Module:
    """Make the network of a supervised stage from one of three starts. In place.

    - ``"random"``: nothing is loaded; needs :class:`FullTuning`.
    - ``"encoder"``: ``pretrained`` (a public checkpoint, or the merged encoder of an earlier stage) is the base.
    - ``"adapter"``: ``pretrained`` is the public base, and ``adapter`` the file of an earlier stage on that base; its
      methods are read from it and train on. ``method`` is not used.

    Args:
        network: a plain MONAI network with its task's decoder and head.
        start: ``"random"``, ``"encoder"`` or ``"adapter"``.
        method: a method, or several.
        also_train: patterns of what trains beside the method: the decoder and the head, unless they were loaded.
        pretrained: a weight file.
        adapter: an adapter file.
        img_size: as for :func:`pretext_network`, and likewise the arguments after it.

    Returns:
        The same network, adapted.

    Raises:
        ValueError: if the start is unknown or lacks its file, or a decoder or head is neither loaded nor trained.
    """
    if start not in _STARTS:
        raise ValueError(f"start must be one of {', '.join(_STARTS)}, got {start!r}")
    if start != "random" and pretrained is None:
        raise ValueError(f"start '{start}' needs pretrained=FILE, the weights that the encoder was adapted from")
    if start == "adapter" and adapter is None:
        raise ValueError("start 'adapter' needs adapter=FILE, the adapter.safetensors that SSA or TPP wrote")
    _keep_img_size(network, img_size)
    loaded = _load_or_refuse(
        network,
        method if start != "adapter" else FullTuning(),
        pretrained if start != "random" else None,
        pretrained_prefix,
        pretrained_img_size,
        first_layer,
    )
    if start == "adapter":
        load_adapter(network, str(adapter), part="method", also_train=also_train)
    else:
        adapt(network, method, also_train)
    _refuse_random_part(network, loaded, ("decoder", "head"))
    _logger.info("what learns:\n%s", summary(network).table())
    return network


def adapted_network(
    network: nn.Module,
    pretrained: str | Path,
    adapter: str | Path,
    holds: str = "network",
    img_size: Sequence[int] | None = None,
    pretrained_prefix: str | None = None,
    pretrained_img_size: Sequence[int] | None = None,
    first_layer: FirstLayer | None = None,
) -> nn.Module:
    """Put the adapter file of a finished stage onto its base: for a method that cannot be merged. In place.

    Args:
        network: the plain network of that stage.
        pretrained: the weight file that the stage began with.
        adapter: its ``adapter.safetensors``.
        holds: ``"network"``: decoder and head are in the files too; ``"encoder"``: only the encoder is used.
        img_size: as for :func:`pretext_network`, and likewise the arguments after it.

    Returns:
        The same network, adapted.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the adapter belongs to another base, or the decoder or the head is wanted and in neither file.
    """
    if holds not in _PARTS_BESIDE:
        raise ValueError(f"holds must be one of {', '.join(_PARTS_BESIDE)}, got {holds!r}")
    _keep_img_size(network, img_size)
    loaded = _loaded(network, pretrained, pretrained_prefix, pretrained_img_size, first_layer)
    load_adapter(network, str(adapter))
    _refuse_random_part(network, loaded, _PARTS_BESIDE[holds])
    return network


def merged_network(network: nn.Module, checkpoint: str | Path) -> nn.Module:
    """Load the ``model.pt`` of a finished stage, the encoder's or the whole network's, into a plain network. In place.

    Args:
        network: the plain network of that stage.
        checkpoint: its ``model.pt``.

    Returns:
        The same network.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if its encoder is not that of the network.
    """
    load_weights(network, checkpoint)
    return network


def trained_network(network: nn.Module, checkpoint: str | Path) -> nn.Module:
    """Load the ``model.pt`` of a finished supervised stage into a plain network of the same class. In place.

    Args:
        network: the plain network of that stage.
        checkpoint: its ``model.pt``, decoder and head included.

    Returns:
        The same network.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a tensor of the network is not in it, as in the ``model.pt`` of a self-supervised stage.
    """
    missing = load_weights(network, checkpoint).missing
    if missing:
        raise ValueError(
            f"{checkpoint} lacks {len(missing)} tensors of {type(network).__name__}, first '{missing[0].name}'; "
            "give the model.pt of a finished segmentation or classification, and the labels of that run"
        )
    return network


def initialise(network: nn.Module, initialisation: str = "method", start: str = "encoder", seed: int = 0) -> nn.Module:
    r"""Begin with the method's own start, or draw every tensor that the method adds. In place.

    A method starts at the base: B of LoRA is zero. Target parameter pre-training (arXiv 2408.15011) replaces that
    start; ``"random"`` is its control that has seen no image:

    .. math:: \theta \sim N(c, 0.02^2), \quad c = 1 \text{ for a factor, which its method starts at one; else } 0

    Each tensor has a generator of its own, keyed by the seed and its name.

    Args:
        network: an adapted network.
        initialisation: ``"method"`` changes nothing; ``"random"`` draws.
        start: of the supervised stage; an adapter file brings its tensors along, so after ``"adapter"`` none is drawn.
        seed: of the draws.

    Returns:
        The same network.

    Raises:
        ValueError: if ``initialisation`` is neither, is ``"random"`` after ``start`` ``"adapter"``, or the methods add
            no tensor (APLA and BitFit train tensors of the base).

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa import adapt
        >>> from monai_essa.methods import LoRA
        >>> net = adapt(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), LoRA())
        >>> bool(initialise(net, "random").blocks[0].attn.qkv.lora_B["q"].any())
        True
    """
    if initialisation not in _INITIALISATIONS:
        raise ValueError(f"initialisation must be one of {', '.join(_INITIALISATIONS)}, got {initialisation!r}")
    if initialisation == "method":
        return network
    if start == "adapter":
        raise ValueError("initialisation 'random' would overwrite the adapter file's tensors: set start: encoder")
    added = _added_parameters(network)
    if not added:
        methods = ", ".join(type(method).__name__ for method in adaptation_of(network).methods)
        raise ValueError(
            f"initialisation 'random' draws the tensors that a method adds, and {methods} adds none: "
            "set initialisation: method, or take LoRA, AdaptFormer, VPT or SSF"
        )
    for name, parameter in added.items():
        _draw(parameter, torch.Generator().manual_seed(key(seed, "initialisation", name)))
    return network


def check_crop_size(network: nn.Module, img_size: Sequence[int]) -> None:
    """Refuse crops that the patches of a network do not divide, or that are a single patch.

    Args:
        network: a plain or adapted network.
        img_size: voxels of a crop along each axis; the name is the key of the bundles.

    Raises:
        ValueError: if a side is not a multiple of the network's stride, or all sides are one stride: then nothing is
            left to predict a patch from, and the deepest feature map of a SwinUNETR is too small to be normalised.

    Example:
        >>> from monai.networks.nets import ViT
        >>> vit = ViT(1, 48, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4)
        >>> check_crop_size(vit, [40, 48, 48])
        Traceback (most recent call last):
        ValueError: img_size [40, 48, 48]: ViT needs multiples of (16, 16, 16), not all of them 1; set [48, 48, 48]
    """
    stride = encoder_view(network).stride
    if len(img_size) != len(stride):
        raise ValueError(f"img_size {list(img_size)}: expected {len(stride)} sides, for a {len(stride)}-D network")
    steps = [max(1, math.ceil(size / step)) for size, step in zip(img_size, stride, strict=True)]
    fitting = [count * step for count, step in zip(steps, stride, strict=True)]
    if fitting != list(img_size) or math.prod(steps) == 1:
        near = [2 * step for step in stride] if math.prod(steps) == 1 else fitting
        raise ValueError(
            f"img_size {list(img_size)}: {type(network).__name__} needs multiples of {stride}, not all of them 1; "
            f"set {near}"
        )


def _keep_img_size(network: nn.Module, img_size: Sequence[int] | None) -> None:
    grid = _token_grid(network, img_size)
    if grid is not None:
        keep_grid(network, grid)


def _load_or_refuse(
    network: nn.Module,
    method: AdaptationMethod | Sequence[AdaptationMethod],
    pretrained: str | Path | None,
    prefix: str | None,
    size: Sequence[int] | None,
    first_layer: FirstLayer | None,
) -> frozenset[str]:
    """Load the weights and return the names that were loaded; without weights only full tuning is accepted."""
    if pretrained is None:
        _refuse_frozen_random(method)
        keep_origin(network, None)  # the site's own
        return frozenset()
    return _loaded(network, pretrained, prefix, size, first_layer)


def _loaded(
    network: nn.Module,
    pretrained: str | Path,
    prefix: str | None,
    size: Sequence[int] | None,
    first_layer: FirstLayer | None,
) -> frozenset[str]:
    grid = _token_grid(network, size)
    return load_weights(network, pretrained, prefix=prefix, source_grid=grid, first_layer=first_layer).loaded


def _token_grid(network: nn.Module, img_size: Sequence[int] | None) -> tuple[int, ...] | None:
    """Count the tokens of a crop along each axis; None for Swin and the CNNs, which have no position embeddings."""
    trunk = encoder_trunk(network)
    if img_size is None or not has_positions(trunk):
        return None
    return encoder_view(trunk).grid(img_size)


def _refuse_frozen_random(method: AdaptationMethod | Sequence[AdaptationMethod]) -> None:
    methods = method if isinstance(method, Sequence) else (method,)
    frozen_by = [type(each).__name__ for each in methods if not isinstance(each, FullTuning)]
    if frozen_by:
        raise ValueError(
            f"no pretrained weights: {frozen_by[0]} would freeze random tensors; "
            "give pretrained=FILE, or pre-train on your own scans with method full"
        )


def _refuse_random_part(network: nn.Module, loaded: frozenset[str], parts: Sequence[str]) -> None:
    known = loaded | dead_parameters(network)
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad and name not in known and part_of(network, name) in parts:
            raise ValueError(
                f"'{name}' of the {part_of(network, name)} is neither loaded nor trained: it would stay random; "
                "name the decoder and the head in also_train, or load a checkpoint that holds them"
            )


def _added_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    record = adaptation_of(network)
    added = record.changing - record.base.keys()
    # The rows of APLA are pretrained values that sit in a tensor of their own: nothing is added.
    copies = {
        f"{path}.{name}"
        for path, layer in network.named_modules()
        if isinstance(layer, APLALinear)
        for name, _ in layer.named_parameters(recurse=False)
    }
    return {name: parameter for name, parameter in network.named_parameters() if name in added - copies}


@torch.no_grad()
def _draw(parameter: nn.Parameter, generator: torch.Generator) -> None:
    centre = 1.0 if bool((parameter == 1).all()) else 0.0
    parameter.copy_(torch.normal(centre, _STD, parameter.shape, generator=generator))
