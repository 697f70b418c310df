# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""VPT: learned prompt tokens beside the image's tokens.

Jia et al., "Visual Prompt Tuning", arXiv 2203.12119.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.nn as nn
from monai.networks.blocks import TransformerBlock

from monai_essa.anatomy.blocks import keeps_one_sequence, patch_voxels, transformer_blocks
from monai_essa.anatomy.parts import encoder_trunk, parts_of
from monai_essa.methods.method import NotMergeable, adopt, check_value, original_of
from monai_essa.outside import Number, switch

__all__ = ["VPT", "PromptedBlock", "PromptedDescribedBlock"]

_NOT_MERGEABLE = (
    "VPT cannot be merged: its prompts are tokens of the input; trace or torch.export the adapted network in eval "
    "mode, it is an ordinary nn.Module"
)


@dataclass(frozen=True)
class VPT:
    r"""Visual prompt tuning (arXiv 2203.12119, section 3.2) of the encoder's transformer blocks.

    .. math:: [\_, x_i] = L_i([P_i, x_{i-1}]) \ \text{(deep)}, \qquad [Z_i, x_i] = L_i([Z_{i-1}, x_{i-1}]),\ Z_0 = P
        \ \text{(shallow)}

    Prompts enter in front of all tokens, including the class token, and are removed before the encoder returns its
    tokens and hidden states, so that a UNETR keeps its grid. Every block attends over all tokens equally, so the place
    of the prompts does not matter. Prompts do not decay (:func:`monai_essa.engines.parameter_groups`).

    Prompts start as in the official code, within the bound of a Xavier-uniform patch embedding of RGB images, for
    images of any number of channels:

    .. math:: P \sim U(-b, b), \quad b = \sqrt{6 / (3\,|patch| + D)}, \quad |patch| \text{ voxels of a patch}

    **The adapted network does not start at its base**, because prompts receive attention from the first step on. It
    cannot be merged either: export the adapted network.

    Args:
        tokens: number of prompts of a block, fewer than the tokens of an image (with MAE, fewer than the visible ones).
        deep: True: new prompts for every block, dropped after it (VPT-Deep). False: prompts for the first block that
            pass through all blocks and are dropped after the last (VPT-Shallow).

    Raises:
        TypeError: if ``deep`` is text.
        ValueError: if ``tokens`` is below 1; in ``adapt``, if a block attends within windows (SwinUNETR),
            causally or with relative positions.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa import adapt
        >>> net = adapt(ViT(1, 32, 8, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), VPT(tokens=4))
        >>> tokens, hidden_states = net(torch.zeros(1, 1, 32, 32, 32))
        >>> tokens.shape, sum(p.numel() for p in net.parameters() if p.requires_grad)  # 2 blocks x 4 prompts x 48
        (torch.Size([1, 64, 48]), 384)
    """

    tokens: int = 10
    deep: bool = True

    def __post_init__(self) -> None:
        check_value(self, "tokens", Number(1, whole=True))
        switch("deep", self.deep)

    def claims(self, network: nn.Module) -> set[str]:
        """Return the names of the prompts of every encoder block, or of the first."""
        paths = _blocks(network)
        return {f"{path}.prompts" for path in (paths if self.deep else paths[:1])}

    def inject(self, network: nn.Module) -> set[str]:
        """Replace the blocks that prompts enter or leave by :class:`PromptedBlock` and return the prompts' names."""
        paths, bound = _blocks(network), _bound(network)
        for path in paths if self.deep else dict.fromkeys((paths[0], paths[-1])):
            enter = self.tokens if self.deep or path == paths[0] else 0
            leave = self.tokens if self.deep or path == paths[-1] else 0
            block: Any = network.get_submodule(path)
            prompted = (
                PromptedBlock(block, enter, leave, bound)
                if isinstance(block, TransformerBlock)
                else PromptedDescribedBlock(block, _width(network), enter, leave, bound)
            )
            network.set_submodule(path, prompted)
        trunk = encoder_trunk(network)
        if not self.deep and parts_of(trunk).hidden_states:
            # Before other hooks, which expect the output of a ViT, such as that of a classifier.
            trunk.register_forward_hook(_strip_hidden_states, prepend=True)
        return self.claims(network)


class PromptedBlock(TransformerBlock):
    """MONAI's transformer block that prompts enter, leave, or both; its children keep their names.

    Args:
        block: the pretrained block; its tensors are shared, not copied.
        enter: number of the block's own prompts, which are put in front of the tokens; 0 for none.
        leave: number of tokens at the front that are dropped from the output.
        bound: prompts start uniform in (-bound, bound).

    Example:
        >>> block = PromptedBlock(TransformerBlock(24, 48, 4), enter=3, leave=3, bound=0.1)
        >>> block(torch.ones(1, 5, 24)).shape, block.prompts.shape
        (torch.Size([1, 5, 24]), torch.Size([3, 24]))
    """

    def __init__(self, block: TransformerBlock, enter: int, leave: int, bound: float) -> None:
        adopt(self, block)
        self.leave = leave
        self.prompts = _prompts(block.norm1.weight, enter, bound)

    def forward(
        self, x: torch.Tensor, context: torch.Tensor | None = None, attn_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Run the block on prompts and tokens; x (B, N, D) -> (B, N + enter - leave, D).

        Raises:
            ValueError: if there are not fewer prompts than tokens, or if an attention mask is passed.
        """
        if attn_mask is not None:
            raise ValueError(
                f"expected no attention mask, got {tuple(attn_mask.shape)}: VPT's prompts have no place in it; "
                f"use AdaptFormer or LoRA with masks"
            )
        return super().forward(_with_prompts(self.prompts, x), context=context)[:, self.leave :]

    def plain(self) -> nn.Module:
        """Return the pretrained block, sharing its tensors."""
        return original_of(self, TransformerBlock, ("prompts", "leave"))

    def merged(self) -> NoReturn:
        """Refuse: no plain block computes this."""
        raise NotMergeable(_NOT_MERGEABLE)

    def extra_repr(self) -> str:
        """Return how many prompts enter and leave."""
        return f"enter={0 if self.prompts is None else len(self.prompts)}, leave={self.leave}"


class PromptedDescribedBlock(nn.Module):
    """The block of a described encoder that prompts enter, leave, or both; its children keep their names.

    Args:
        block: the pretrained block, called with tokens (B, N, D); its tensors are shared, not copied.
        width: D.
        enter: number of the block's own prompts, which are put in front of the tokens; 0 for none.
        leave: number of tokens at the front that are dropped from the output.
        bound: prompts start uniform in (-bound, bound).

    Example:
        >>> block = PromptedDescribedBlock(nn.LayerNorm(24), 24, enter=3, leave=3, bound=0.1)
        >>> block(torch.ones(1, 5, 24)).shape, block.prompts.shape
        (torch.Size([1, 5, 24]), torch.Size([3, 24]))
    """

    def __init__(self, block: nn.Module, width: int, enter: int, leave: int, bound: float) -> None:
        adopt(self, block)
        self.kind = type(block)
        self.leave = leave
        self.prompts = _prompts(next(block.parameters()).new_empty(width), enter, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the block on prompts and tokens; x (B, N, D) -> (B, N + enter - leave, D).

        Raises:
            ValueError: if there are not fewer prompts than tokens.
        """
        output: torch.Tensor = self.plain().forward(_with_prompts(self.prompts, x))
        return output[:, self.leave :]

    def plain(self) -> nn.Module:
        """Return the pretrained block, sharing its tensors."""
        return original_of(self, self.kind, ("kind", "prompts", "leave"))

    def merged(self) -> NoReturn:
        """Refuse: no plain block computes this."""
        raise NotMergeable(_NOT_MERGEABLE)

    def extra_repr(self) -> str:
        """Return how many prompts enter and leave."""
        return f"enter={0 if self.prompts is None else len(self.prompts)}, leave={self.leave}"


def _prompts(like: torch.Tensor, count: int, bound: float) -> nn.Parameter | None:
    """Draw prompts (count, D) like a token (D); None for no prompts."""
    drawn = like.detach().new_empty(count, len(like)).uniform_(-bound, bound)
    return nn.Parameter(drawn) if count else None


def _with_prompts(prompts: nn.Parameter | None, x: torch.Tensor) -> torch.Tensor:
    """Put prompts in front of the tokens x (B, N, D)."""
    if prompts is None:
        return x
    count, length = len(prompts), x.shape[1]
    if count >= length:
        raise ValueError(
            f"expected fewer prompts than tokens, got VPT(tokens={count}) for a sequence of {length}; "
            f"use fewer prompts, a larger crop or a lower mask ratio"
        )
    return torch.cat([prompts.to(x.dtype).expand(len(x), -1, -1), x], dim=1)  # (B, enter + N, D)


def _bound(network: nn.Module) -> float:
    return math.sqrt(6 / (3 * patch_voxels(network) + _width(network)))


def _width(network: nn.Module) -> int:
    first = next(block for block in transformer_blocks(network) if block.role == "encoder")
    return network.get_parameter(f"{first.query.path}.weight").shape[1]


def _blocks(network: nn.Module) -> list[str]:
    paths = [block.path for block in transformer_blocks(network) if block.role == "encoder"]
    for path in paths:
        if why := _no_place_for_prompts(network, network.get_submodule(path)):
            raise ValueError(
                f"VPT does not fit '{path}' of {type(network).__name__}: {why}; use AdaptFormer, LoRA or APLA"
            )
    return paths


def _no_place_for_prompts(network: nn.Module, block: nn.Module) -> str | None:
    if keeps_one_sequence(network):
        return None
    if not isinstance(block, TransformerBlock):
        return "it does not attend over one sequence of tokens (Swin attends within windows)"
    if block.attn.causal:
        return "it attends causally, over a fixed length"
    return None if block.attn.rel_positional_embedding is None else "it has relative positions, and a prompt has none"


def _strip_hidden_states(trunk: nn.Module, _: object, output: Any) -> Any:
    """Drop passing prompts from a ViT's list of the outputs of its blocks; the last block has dropped them already.

    While the adapter is disabled, the blocks are the plain ones and the list is not changed.
    """
    passing = [block for block in trunk.modules() if isinstance(block, PromptedBlock) and block.prompts is None]
    if not passing:
        return output
    tokens, hidden_states = output
    return tokens, [*(state[:, passing[0].leave :] for state in hidden_states[:-1]), *hidden_states[-1:]]
