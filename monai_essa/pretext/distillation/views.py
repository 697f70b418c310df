# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""One view of images: an encoder and a head in, the image token, the patch tokens and their logits out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

from monai_essa.anatomy import FeatureMapEncoder, TokenEncoder, encoder_view
from monai_essa.anatomy.described.tokens import DescribedTokens
from monai_essa.pretext.distillation.crop_masks import CropMasks
from monai_essa.pretext.distillation.head import PrototypeHead
from monai_essa.pretext.masking import expand_mask, units_of
from monai_essa.pretext.simmim import replaced_output

__all__ = [
    "EncodedView",
    "EncoderView",
    "ViewEncoder",
    "cell_grid",
    "check_crop",
    "encode_tokens",
    "in_eval",
    "token_width",
    "uncached_autocast",
]

EncoderView = TokenEncoder | DescribedTokens | FeatureMapEncoder


@dataclass(frozen=True, eq=False)
class EncodedView:
    """What an encoder and a head make of B images with N final tokens of width D, of which M are masked.

    Attributes:
        image: image tokens (B, D).
        patches: final tokens (B, N, D).
        image_logits: (B, K).
        patch_logits: (M, K) of the masked tokens; None without masks.
    """

    image: Tensor
    patches: Tensor
    image_logits: Tensor
    patch_logits: Tensor | None


class ViewEncoder(nn.Module):
    """Encode images and project their tokens; student and teacher are this module with other tensors.

    Args:
        encoder: the network; not a copy.
        head: the head; not a copy.
    """

    def __init__(self, encoder: nn.Module, head: PrototypeHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, images: Tensor, masks: CropMasks | None = None, mask_token: Tensor | None = None) -> EncodedView:
        """Encode and project.

        Args:
            images: (B, C, spatial...).
            masks: of the final tokens; their logits are returned.
            mask_token: (D) that takes the place of the masked patches' embeddings; None leaves the images whole.
        """
        image, patches = encode_tokens(self.encoder, images, masks if mask_token is not None else None, mask_token)
        chosen = None if masks is None else patches.flatten(0, 1)[masks.cells]
        return EncodedView(
            image=image,
            patches=patches,
            image_logits=self.head(image),
            patch_logits=None if chosen is None else self.head(chosen),
        )


def encode_tokens(
    encoder: nn.Module, images: Tensor, masks: CropMasks | None = None, mask_token: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Encode images to image tokens and final tokens.

    The image token is the class token where the encoder has one, else the mean over the final tokens that are not
    masked. Position embeddings are interpolated to the grid of the images. The cells of a SwinUNETR's or a CNN's
    deepest feature map are its final tokens.

    Args:
        encoder: a network that :func:`monai_essa.anatomy.encoder_view` knows.
        images: (B, C, spatial...).
        masks: of the final tokens.
        mask_token: (D) in place of what the encoder embeds of masked tokens.

    Returns:
        Image tokens (B, D) and final tokens (B, N, D).

    Raises:
        ValueError: if the shape of the images does not fit the encoder.
    """
    view = encoder_view(encoder)
    check_crop(view, images)
    with ExitStack() as stack:
        if masks is not None and mask_token is not None and view.patch_embedding is not None:
            units = units_of(view.stride, view.patch_size)
            stack.enter_context(replaced_output(view.patch_embedding, expand_mask(masks.mask, units), mask_token))
        front, patches = _final_tokens(view, images)
    if front is not None:
        return front, patches
    if masks is None:
        return patches.mean(1), patches
    seen = (~masks.mask).flatten(1)[..., None].to(patches.dtype)  # (B, N, 1)
    return (patches * seen).sum(1) / seen.sum(1), patches


def check_crop(view: EncoderView, images: Tensor) -> None:
    """Refuse crops that the encoder cannot take: no multiple of its stride, or one cell of a feature map alone.

    Raises:
        ValueError: for such a crop; the message says which sizes fit.
    """
    view.check(images)
    shape = tuple(images.shape[2:])
    if isinstance(view, FeatureMapEncoder) and any(size <= step for size, step in zip(shape, view.stride, strict=True)):
        raise ValueError(
            f"{type(view.network).__name__} needs crops above its stride {view.stride}, got {shape}; "
            f"take multiples of it, {tuple(2 * step for step in view.stride)} or more, for global and local crops"
        )
    view.grid(shape)


def cell_grid(view: EncoderView, images: Tensor) -> tuple[int, ...]:
    """Return the grid of final tokens of images (B, C, spatial...)."""
    return tuple(size // step for size, step in zip(images.shape[2:], view.stride, strict=True))


def token_width(view: EncoderView) -> int:
    """Return the width D of the final tokens."""
    return view.channels if isinstance(view, FeatureMapEncoder) else view.hidden_size


def uncached_autocast(device: torch.device) -> torch.autocast:
    """Return autocast as it is now, but for its cache of weights that it has cast.

    The cache knows a tensor by its identity. Where a network runs several times in one step, it would hand the base's
    values to the student after Gram's forward pass, and a recomputed block would cast what it took from the cache
    before, which torch refuses.

    Args:
        device: where the step runs.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16), uncached_autocast(torch.device("cpu")):
        ...     torch.is_autocast_cache_enabled(), torch.is_autocast_enabled("cpu")
        (False, True)
    """
    kind = device.type
    return torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False)


@contextmanager
def in_eval(module: nn.Module) -> Iterator[None]:
    """Put all parts of a module into eval mode within the block; afterwards each is as it was."""
    modes = {part: part.training for part in module.modules()}
    _set_modes(dict.fromkeys(modes, False))
    try:
        yield
    finally:
        _set_modes(modes)


def _set_modes(modes: Mapping[nn.Module, bool]) -> None:
    """Set the mode of each part, parents first; ``train`` of a part that has its own, as in TinyViT, is called."""
    for part, mode in modes.items():
        if type(part).train is nn.Module.train:
            part.training = mode
        elif part.training is not mode:
            part.train(mode)


def _final_tokens(view: EncoderView, images: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return the class token (B, D), None without one, and the final tokens (B, N, D)."""
    if isinstance(view, FeatureMapEncoder):
        return None, view.features(images)[-1].flatten(2).transpose(1, 2)
    embedded = view.embed(images)
    encoded = view.encode_all(embedded)
    front = encoded.shape[1] - embedded.shape[1]
    has_class_token = view.has_class_token if isinstance(view, DescribedTokens) else front > 0
    return encoded[:, 0] if has_class_token else None, encoded[:, front:]
