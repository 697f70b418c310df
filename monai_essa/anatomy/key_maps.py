# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""How families of weight files name their tensors: one table for each family, and nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["KEY_MAPS", "MONAI", "KeyMap"]


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
        matches = ((re.fullmatch(pattern, name), layer) for pattern, layer in self.folds)
        return next((match.expand(layer) for match, layer in matches if match), None)


def _reason(rules: tuple[tuple[str, str], ...], name: str) -> str | None:
    return next((reason for pattern, reason in rules if re.fullmatch(pattern, name)), None)


# MONAI up to 1.5 builds a cross-attention that is never called, and 1.6 still builds its norm.
_DEAD = (r".*\b(norm_)?cross_attn\..*", "cross-attention that MONAI built and never used")

MONAI = KeyMap(
    "monai",
    # MaskedAutoEncoderViT keeps the encoder's final norm as the last entry of `blocks`.
    renames=((r"^blocks\.\d+\.(weight|bias)$", r"norm.\1"),),
    ignored=(
        _DEAD,
        (r"decoder_.*|mask_tokens", "decoder of a masked autoencoder"),
        (r"model(\.1\.submodule)*\.2\..*", "decoder of a UNet"),
        (r"mask_token", "token of masked patches, of a pretext task"),
        (r"classification_head\..*", "head of a classifier"),
        (r"cls_token", "class token, which this network does not have"),
    ),
    optional=((r"cls_token", "class token, which the file does not have"),),
    norm_eps=1e-5,
)

KEY_MAPS = (MONAI,)
