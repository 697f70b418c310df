# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""How families of weight files name their tensors: one table for each family, and nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["DINOV2_HF", "KEY_MAPS", "MONAI", "SWIN", "VIT", "KeyMap"]


@dataclass(frozen=True)
class KeyMap:
    r"""How the tensor names of a family of files become those of a MONAI encoder (or of a whole MONAI network).

    Prefixes such as ``module.``, ``state_dict.`` or ``backbone.`` need no rule: they are found by matching the names.

    Args:
        name: of the family.
        renames: (pattern, replacement) for :func:`re.sub`, all applied in order.
        ignored: (pattern, reason) of tensors that a MONAI network does not need; full match on renamed names.
        optional: (pattern, reason) of encoder tensors that a network may have although the file lacks them; full match
            on renamed names.
        folds: (pattern, replacement) of per-feature scales (LayerScale), full match on renamed names; the replacement
            names the linear layer before it, whose weight rows and bias entries are multiplied by the scale.
        joins: (pattern, replacement) of parts of a tensor that MONAI keeps in one piece, full match on renamed names;
            the replacement names the tensor that is their first part; the others follow in the order of the rules.
        refused: (pattern, reason) of tensors of the encoder that no MONAI network can use; full match on renamed names.
            Without them the encoder would be another function, so the reason is a part of the refusal.
        class_position: whether the first row of the position embeddings belongs to the class token. MONAI adds no
            position to its class token.
        norm_eps: epsilon of the family's layer norms, or None if it is unknown. The network's epsilon does not change;
            the report says if the two differ.

    Example:
        >>> timm = KeyMap("timm", renames=((r"\.mlp\.fc([12])\.", r".mlp.linear\1."),))
        >>> timm.rename("blocks.0.mlp.fc1.weight")
        'blocks.0.mlp.linear1.weight'
    """

    name: str
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()
    optional: tuple[tuple[str, str], ...] = ()
    folds: tuple[tuple[str, str], ...] = ()
    joins: tuple[tuple[str, str], ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    class_position: bool = False
    norm_eps: float | None = None

    def rename(self, key: str) -> str:
        """Return the MONAI name of a key of the file without its prefix."""
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key

    def why_ignored(self, name: str) -> str | None:
        """Return the reason why a renamed tensor is not needed, or None if no rule covers it."""
        return _reason(self.ignored, name)

    def why_optional(self, name: str) -> str | None:
        """Return the reason why a network may have a tensor that the file lacks, or None if no rule covers it."""
        return _reason(self.optional, name)

    def folds_into(self, name: str) -> str | None:
        """Return the path of the linear layer that takes a renamed scale, or None if the tensor is not a scale."""
        return _expanded(self.folds, name)

    def joins_to(self, name: str) -> str | None:
        """Return the tensor that a renamed tensor is a later part of, or None if it is a tensor of its own."""
        return _expanded(self.joins, name)

    def join_order(self, name: str) -> int:
        """Return the place of a part among the parts of its tensor."""
        return next((order for order, (pattern, _) in enumerate(self.joins) if re.fullmatch(pattern, name)), -1)

    def why_refused(self, name: str) -> str | None:
        """Return the reason why no MONAI network can use a renamed tensor, or None if no rule covers it."""
        return _reason(self.refused, name)


def _expanded(rules: tuple[tuple[str, str], ...], name: str) -> str | None:
    matches = ((re.fullmatch(pattern, name), replacement) for pattern, replacement in rules)
    return next((match.expand(replacement) for match, replacement in matches if match), None)


def _reason(rules: tuple[tuple[str, str], ...], name: str) -> str | None:
    return next((reason for pattern, reason in rules if re.fullmatch(pattern, name)), None)


# MONAI up to 1.5 builds a cross-attention that is never called, and 1.6 still builds its norm.
_DEAD = (r".*\b(norm_)?cross_attn\..*", "cross-attention that MONAI built and never used")
_MASK_TOKEN = (r"mask_token", "token of masked patches, of a pretext task")
_NO_CLASS_TOKEN = (r"cls_token", "class token, which this network does not have")
_CLASS_TOKEN_IS_OPTIONAL = (r"cls_token", "class token, which the file does not have")
_SCALES = (
    (r"blocks\.(\d+)\.ls1\.gamma", r"blocks.\1.attn.out_proj"),
    (r"blocks\.(\d+)\.ls2\.gamma", r"blocks.\1.mlp.linear2"),
)
_NOT_IN_A_MONAI_VIT = (
    (r"register_tokens|reg_token", "the file has register tokens, for which a MONAI ViT has no place"),
    (r"blocks\.\d+\.mlp\.(w12|w3|weights_in|weights_out)\..*", "its MLPs are SwiGLU, which a MONAI ViT does not have"),
    (
        r"blocks\.\d+\.attn\.rel_pos_[hw]",
        "its attention adds relative positions within windows, as SAM's does and a MONAI ViT's does not",
    ),
    (r"(.*\.)?rope(_\w+)?(\..*)?", "its positions are rotary (RoPE), which a MONAI ViT does not have"),
    (r"blocks\.\d+\.attn\.[qk]_norm\..*", "its attention normalises queries and keys, which a MONAI ViT does not do"),
)

MONAI = KeyMap(
    "monai",
    renames=(
        # MaskedAutoEncoderViT keeps the encoder's final norm as the last entry of `blocks`.
        (r"^blocks\.\d+\.(weight|bias)$", r"norm.\1"),
        (r"^swin_vit\.", ""),  # what some training code calls the encoder of its SwinUNETR
    ),
    ignored=(
        _DEAD,
        (r"decoder_.*|mask_tokens", "decoder of a masked autoencoder"),
        (r"model(\.1\.submodule)*\.2\..*", "decoder of a UNet"),
        _MASK_TOKEN,
        (r"classification_head\..*", "head of a classifier"),
        (r"conv_seg\..*", "head for segmentation"),
        _NO_CLASS_TOKEN,
    ),
    optional=(_CLASS_TOKEN_IS_OPTIONAL,),
    norm_eps=1e-5,
)

SWIN = KeyMap(
    "swin",
    renames=(
        (r"^swin_vit\.", ""),
        (r"^layers(\d)\.0\.0\.", r"layers\1.0."),  # a stage inside of one more list
        (r"\.mlp\.fc([12])\.", r".mlp.linear\1."),
    ),
    ignored=(
        (r"norm\..*", "norm after the last stage, which MONAI's Swin computes without parameters"),
        _MASK_TOKEN,
        (r"(rotation|contrastive)_(pre|head)\..*|convTrans3d\..*", "head of a pretext task"),
    ),
    norm_eps=1e-5,
)

VIT = KeyMap(
    "vit",
    renames=(
        (r"^patch_embed\.proj\.", "patch_embedding.patch_embeddings."),
        (r"^pos_embed$", "patch_embedding.position_embeddings"),
        (r"^blocks\.\d+\.(\d+)\.(?=norm|attn|ls|mlp)", r"blocks.\1."),  # blocks in chunks, numbered throughout
        (r"\.attn\.proj\.", ".attn.out_proj."),
        (r"\.mlp\.fc([12])\.", r".mlp.linear\1."),
    ),
    ignored=(
        _MASK_TOKEN,
        (r"decoder_.*", "decoder of a masked autoencoder"),
        (r"(head|fc_norm|neck)\..*", "head"),
        _NO_CLASS_TOKEN,
    ),
    optional=(_CLASS_TOKEN_IS_OPTIONAL,),
    folds=_SCALES,
    refused=_NOT_IN_A_MONAI_VIT,
    class_position=True,
    norm_eps=1e-6,
)

DINOV2_HF = KeyMap(
    "dinov2_hf",
    renames=(
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embedding.patch_embeddings."),
        (r"^embeddings\.position_embeddings$", "patch_embedding.position_embeddings"),
        (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
        (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
        (r"\.attention\.attention\.query\.", ".attn.qkv."),
        (r"\.attention\.attention\.(key|value)\.", r".attn.\1."),
        (r"\.attention\.output\.dense\.", ".attn.out_proj."),
        (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
        (r"\.mlp\.fc([12])\.", r".mlp.linear\1."),
        (r"^layernorm\.", "norm."),
    ),
    ignored=(_MASK_TOKEN, (r"classifier\..*", "head"), _NO_CLASS_TOKEN),
    optional=(_CLASS_TOKEN_IS_OPTIONAL,),
    folds=_SCALES,
    joins=(
        (r"(blocks\.\d+\.attn)\.key\.(weight|bias)", r"\1.qkv.\2"),
        (r"(blocks\.\d+\.attn)\.value\.(weight|bias)", r"\1.qkv.\2"),
    ),
    refused=_NOT_IN_A_MONAI_VIT,
    class_position=True,
    norm_eps=1e-6,
)

KEY_MAPS = (MONAI, SWIN, VIT, DINOV2_HF)
"""One table for each grammar; families that name their tensors alike share it (:mod:`monai_essa.weights.families`)."""
