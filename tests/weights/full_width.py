# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Every family's file at its published width: its own keys with their shapes, and no memory.

Convolutional networks and Swin transformers are MONAI's, spelled as the authors spell them; vision transformers are
written out. Nothing here asks the key maps. ``python -m tests.weights.full_width`` writes ``full_width_shapes.json``.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from monai.networks import nets
from torch.overrides import TorchFunctionMode

Shapes = dict[str, list[int]]
FOLDED = Path(__file__).with_name("full_width_shapes.json")
_ASTRA = {"n_input_channels": 3, "conv1_t_size": (3, 7, 7), "shortcut_type": "B", "bias_downsample": False}


class _WeightsOnMeta(TorchFunctionMode):
    """Put what layers allocate on the meta device; a SwinUNETR cannot be built there as a whole: it reads values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {**(kwargs or {}), **({"device": "meta"} if func in (torch.empty, torch.arange) else {})}
        return func(*args, **kwargs)


def without_memory(network: str, **arguments: Any) -> nn.Module:
    """Build a network of MONAI whose weights have shapes and no values."""
    with _WeightsOnMeta():
        built: nn.Module = getattr(nets, network)(**arguments)
        return built


@cache
def full_width() -> Mapping[str, Shapes]:
    """Return the keys and shapes of the files, by the family and the part or size of it."""
    return {
        "swin_unetr_ssl": swin_ssl(),
        "swin_unetr_dae": swin_dae(),
        "swin_unetr_btcv": under("state_dict.", swin(out_channels=14)),
        "voco B": voco(),
        "vocomni B": under("state_dict.module.", swin(out_channels=21, use_v2=True)),
        "suprem swin": under("net.module.backbone.", without(r"out\..*", swin())),
        "suprem segresnet": under(
            "net.module.",
            of("SegResNet", init_filters=16, blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1), out_channels=25),
        ),
        "ct_fm encoder": stripped("encoder.", ct_fm()),
        "ct_fm segresnet": ct_fm(),
        "brainsegfounder": under("state_dict.module.", brainsegfounder()),
        "medicalnet 10": under("state_dict.module.", medicalnet("resnet10")),
        "medicalnet 50": under("state_dict.module.", medicalnet("resnet50")),
        "merlin": merlin(),
        "astra": astra(),
        "vista3d": of("vista3d132"),
        "monai_mae": monai_mae(),
        "3dino": under("teacher.backbone.", dino3d()),
        "timm B": vit(768, 12, (3, 16, 16), 197) | linear("head", 768, 1000),
        "mae B": under("model.", vit(768, 12, (3, 16, 16), 197)),
        "dinov2 B": vit(768, 12, (3, 14, 14), 1370, scale="gamma") | {"mask_token": [1, 768]},
        "retfound": under("model.", vit(1024, 24, (3, 16, 16), 197) | mae_decoder(1024)),
        "rad_dino": rad_dino(),
    }


@cache
def of(network: str, **arguments: Any) -> Shapes:
    """The tensors of a network of MONAI."""
    return {name: list(tensor.shape) for name, tensor in without_memory(network, **arguments).state_dict().items()}


def under(prefix: str, shapes: Shapes) -> Shapes:
    """Put a prefix, or the keys of dictionaries around the tensors, before each name."""
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}


def only(pattern: str, shapes: Shapes) -> Shapes:
    """Keep the names that match."""
    return {name: shape for name, shape in shapes.items() if re.fullmatch(pattern, name)}


def stripped(prefix: str, shapes: Shapes) -> Shapes:
    """Keep what stands under a prefix, and leave the prefix out."""
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def without(pattern: str, shapes: Shapes) -> Shapes:
    """Leave out the names that match."""
    return {name: shape for name, shape in shapes.items() if not re.fullmatch(pattern, name)}


def swin(out_channels: int = 1, use_v2: bool = False) -> Shapes:
    """A SwinUNETR of width 48, whose Swin transformer stands under ``swinViT.``."""
    shapes = of("SwinUNETR", in_channels=1, out_channels=1, feature_size=48, use_v2=use_v2)
    return shapes | {"out.conv.conv.weight": [out_channels, 48, 1, 1, 1], "out.conv.conv.bias": [out_channels]}


def brainsegfounder() -> Shapes:
    """The encoder for two channels, T1 and T2."""
    return only(r"swinViT\..*", swin()) | {"swinViT.patch_embed.proj.weight": [48, 2, 2, 2, 2]}


def swin_trunk() -> Shapes:
    """The bare Swin transformer with the names of its first publication: fc1 and fc2, and a last norm."""
    trunk = stripped("swinViT.", swin())
    return {name.replace(".mlp.linear", ".mlp.fc"): shape for name, shape in trunk.items()} | norm("norm", 768)


def swin_ssl() -> Shapes:
    """The encoder of self-supervision on 5,000 CTs, beside the heads of its three pretext tasks."""
    heads = linear("rotation_head", 768, 4) | linear("contrastive_head", 768, 512)
    heads |= {"convTrans3d.weight": [768, 1, 32, 32, 32], "convTrans3d.bias": [1]}
    return under("state_dict.module.", swin_trunk() | heads)


def swin_dae() -> Shapes:
    """The encoder of the denoising autoencoder, a list deeper, beside its mask token and its decoder."""
    deeper = {re.sub(r"^layers(\d)\.0\.", r"layers\1.0.0.", name): shape for name, shape in swin_trunk().items()}
    decoder = only(r"(decoder\d|out)\..*", swin())
    return under("model.", under("encoder.", deeper | {"mask_token": [1, 1, 48]}) | decoder)


def voco() -> Shapes:
    """The network of the second version before its decoder, whose Swin transformer is called swin_vit."""
    encoder = only(r"(swinViT|encoder\d+)\..*", swin(use_v2=True))
    return under("module.backbone.", {name.replace("swinViT.", "swin_vit."): shape for name, shape in encoder.items()})


def ct_fm() -> Shapes:
    """A SegResNetDS for whole-body segmentation, whose encoder is published alone too."""
    return of("SegResNetDS", init_filters=32, blocks_down=(1, 2, 2, 4, 4), out_channels=118, dsdepth=4)


def monai_mae() -> Shapes:
    """A MaskedAutoEncoderViT with the MLPs of a ViT-B and positions that are learned."""
    positions = {"pos_embed_type": "learnable", "decoder_pos_embed_type": "learnable"}
    return of("MaskedAutoEncoderViT", in_channels=1, img_size=96, patch_size=16, mlp_dim=3072, **positions)


def medicalnet(network: str) -> Shapes:
    """A ResNet of MedicalNet."""
    sizes = {"spatial_dims": 3, "n_input_channels": 1, "feed_forward": False, "bias_downsample": False}
    return of(network, shortcut_type="B", **sizes)


def astra() -> Shapes:
    """The ResNet of 152 layers that was inflated from a 2-D one, for three channels."""
    return of("resnet152", spatial_dims=3, feed_forward=False, **_ASTRA)


def merlin() -> Shapes:
    """The same with two heads of convolutions, beside the encoder of texts, of which one layer stands here."""
    heads = {"classifier": 1692, "contrastive_head": 512}
    shapes = astra() | {f"{name}.weight": [width, 2048, 1, 1, 1] for name, width in heads.items()}
    shapes |= {f"{name}.bias": [width] for name, width in heads.items()}
    return under("encode_image.i3_resnet.", shapes) | linear("encode_text.linear_layer", 768, 512)


def linear(name: str, inputs: int, outputs: int) -> Shapes:
    """A linear layer."""
    return {f"{name}.weight": [outputs, inputs], f"{name}.bias": [outputs]}


def norm(name: str, width: int) -> Shapes:
    """A layer norm."""
    return {f"{name}.weight": [width], f"{name}.bias": [width]}


def block(width: int, scale: str | None) -> Shapes:
    """A block of timm's VisionTransformer."""
    layers = linear("attn.qkv", width, 3 * width) | linear("attn.proj", width, width)
    layers |= linear("mlp.fc1", width, 4 * width) | linear("mlp.fc2", 4 * width, width)
    scales = {f"ls1.{scale}": [width], f"ls2.{scale}": [width]} if scale else {}
    return norm("norm1", width) | norm("norm2", width) | layers | scales


def vit(width: int, depth: int, patch: tuple[int, ...], positions: int, scale: str | None = None) -> Shapes:
    """The tensors of timm's VisionTransformer; ``patch`` is (channels, voxels...), position 0 the class token's."""
    shapes: Shapes = {"cls_token": [1, 1, width], "pos_embed": [1, positions, width]}
    shapes |= {"patch_embed.proj.weight": [width, *patch], "patch_embed.proj.bias": [width]}
    for number in range(depth):
        shapes |= under(f"blocks.{number}.", block(width, scale))
    return shapes | norm("norm", width)


def mae_decoder(width: int) -> Shapes:
    """The decoder of a masked autoencoder, 512 wide and 8 blocks deep."""
    shapes: Shapes = {"mask_token": [1, 1, 512], "decoder_pos_embed": [1, 197, 512]}
    shapes |= linear("decoder_embed", width, 512) | norm("decoder_norm", 512) | linear("decoder_pred", 512, 768)
    for number in range(8):
        shapes |= under(f"decoder_blocks.{number}.", block(512, None))
    return shapes


def dino3d() -> Shapes:
    """A 3-D ViT-L for crops of 96 voxels; its 24 blocks lie in 4 chunks and are numbered throughout."""
    flat = vit(1024, 24, (1, 16, 16, 16), 1 + 6**3, scale="gamma") | {"mask_token": [1, 1024]}
    chunked = re.compile(r"^blocks\.(\d+)\.")
    return {chunked.sub(lambda m: f"blocks.{int(m[1]) // 6}.{m[1]}.", name): shape for name, shape in flat.items()}


def rad_dino() -> Shapes:
    """A ViT-B as transformers' Dinov2Model names it, with separate queries, keys and values."""
    width = 768
    shapes: Shapes = {
        "embeddings.cls_token": [1, 1, width],
        "embeddings.mask_token": [1, width],
        "embeddings.position_embeddings": [1, 1370, width],
        "embeddings.patch_embeddings.projection.weight": [width, 3, 14, 14],
        "embeddings.patch_embeddings.projection.bias": [width],
    }
    layers: Shapes = {}
    for part in ("query", "key", "value"):
        layers |= linear(f"attention.attention.{part}", width, width)
    layers |= linear("attention.output.dense", width, width)
    layers |= linear("mlp.fc1", width, 4 * width) | linear("mlp.fc2", 4 * width, width)
    layers |= norm("norm1", width) | norm("norm2", width)
    layers |= {"layer_scale1.lambda1": [width], "layer_scale2.lambda1": [width]}
    for number in range(12):
        shapes |= under(f"encoder.layer.{number}.", layers)
    return shapes | norm("layernorm", width)


def folded(shapes: Mapping[str, list[int]]) -> Any:
    """Nest names by their parts, and write siblings of equal content as one: ``{"0..11": {"weight,bias": [768]}}``."""
    groups: dict[str, Shapes] = defaultdict(dict)
    for name, shape in shapes.items():
        first, _, rest = name.partition(".")
        groups[first][rest] = shape
    siblings: dict[str, list[str]] = defaultdict(list)
    for first, inside in groups.items():
        siblings[_compact(inside[""] if "" in inside else folded(inside))].append(first)
    return {_runs(names): json.loads(content) for content, names in siblings.items()}


def unfolded(tree: Any) -> Shapes:
    """Write out the names of :func:`folded`."""
    if isinstance(tree, list):
        return {"": tree}
    return {
        f"{first}.{rest}".rstrip("."): shape
        for names, inside in tree.items()
        for first in _parts(names)
        for rest, shape in unfolded(inside).items()
    }


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _runs(names: Sequence[str]) -> str:
    numbers = sorted(int(name) for name in names if name.isdigit())
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs]
    return ",".join([name for name in names if not name.isdigit()] + texts)


def _parts(names: str) -> Iterator[str]:
    for text in names.split(","):
        first, dots, last = text.partition("..")
        yield from map(str, range(int(first), int(last) + 1)) if dots else (text,)


def text_of(files: Mapping[str, Shapes]) -> str:
    """Return the text of the JSON file, a line for each family."""
    return "{\n" + ",\n".join(f"{json.dumps(name)}:{_compact(folded(each))}" for name, each in files.items()) + "\n}\n"


if __name__ == "__main__":
    FOLDED.write_text(text_of(full_width()), encoding="utf-8")
