# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The alarm of a collapse: a run whose network says the same of every image stops, with the reason."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn as nn
from ignite.engine import Engine, Events
from monai.metrics import EmbeddingCollapseMetric
from torch import Tensor

from monai_essa.anatomy import encoder_view
from monai_essa.pretext.distillation.views import cell_grid, encode_tokens, in_eval

__all__ = ["CollapseAlarm", "feature_rank", "patch_tokens"]

_logger = logging.getLogger(__name__)
_LEAST_RANK = 0.25  # of that before the training
_NEAR_UNIFORM = 0.01
_PATIENCE = 3  # epochs in a row: a head that has just begun passes through uniform targets too
_TOKENS = 1024
_FEW_TOKENS = 1000  # below, the rank says less (RankMe), and the log says that there are no more
_IMAGES = 64  # held-out images at most, and rounds of views of each until there are enough tokens
_ROUNDS = 8
_ADVICE = "lower lr, raise the teacher's momentum, or take a smaller temperature for the teacher"


class CollapseAlarm:
    """Handler of the trainer that watches features without labels, and stops a run that has collapsed.

    After each epoch it encodes the same views of held-out images, in the same fixed patches, and compares:

    - the rank of their patch tokens (:func:`feature_rank`) with that before the first step: below a quarter of it the
      run stops;
    - the loss between views with that of a teacher that says the same of all images, :math:`\\ln K`: within 1 % of it
      in three epochs in a row, after the warm-up of the teacher's temperature, the run stops, if the entropy of the
      teacher's targets is there too. The loss alone begins there, with a head that has learned nothing yet.

    MONAI's EmbeddingCollapseMetric of these tokens, from 0 to 1, is logged beside the rank.

    Args:
        objective: a pretext objective with an ``encoder``; one with ``prototypes`` and a ``schedule`` has the second
            alarm.
        images: held-out ``KeyedDataset`` whose items have ``"image"``, views (V, C, spatial...) of one size.
        tokens: how many patch tokens are compared, drawn once.

    Raises:
        ValueError: if there is no image to encode.
    """

    def __init__(self, objective: nn.Module, images: Any, tokens: int = _TOKENS) -> None:
        if len(images) == 0:
            raise ValueError("the alarm of a collapse needs held-out images: lower hold_out")
        self.objective = objective
        self.images = images
        self.tokens = tokens
        self.first_rank: float | None = None
        self._crops: list[Tensor] = []
        self._sums, self._count = (0.0, 0.0), 0
        self._uniform_epochs = 0

    def attach(self, engine: Engine) -> None:
        """Attach to a MONAI trainer, after the handler that resumes."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._check)

    def state_dict(self) -> dict[str, Any]:
        """Return the rank before the first step, the losses of this epoch and the epochs with uniform targets."""
        return {
            "first_rank": self.first_rank,
            "sums": self._sums,
            "count": self._count,
            "uniform_epochs": self._uniform_epochs,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.first_rank, self._sums, self._count = state["first_rank"], tuple(state["sums"]), state["count"]
        self._uniform_epochs = state["uniform_epochs"]

    def _start(self, engine: Any) -> None:
        self._crops = self._fixed_views()
        tokens = self._tokens(engine)
        if len(tokens) < min(self.tokens, _FEW_TOKENS):
            _logger.warning(
                "the alarm of a collapse compares %d patch tokens, all that the held-out scans have: with %d or more, "
                "from a lower hold_out, it is more certain",
                len(tokens),
                _FEW_TOKENS,
            )
        if self.first_rank is None:
            self.first_rank = feature_rank(tokens)

    def _fixed_views(self) -> list[Tensor]:
        """Return views of up to 64 images, and further views of each until there are enough patches."""
        step = max(1, len(self.images) // _IMAGES)
        numbers, view = range(0, len(self.images), step)[:_IMAGES], encoder_view(self.objective.encoder)  # type: ignore[arg-type]
        crops: list[Tensor] = []
        for turn in range(_ROUNDS):
            crops += [self.images[turn, number]["image"].as_subclass(Tensor) for number in numbers]
            if sum(len(views) * math.prod(cell_grid(view, views)) for views in crops) >= self.tokens:
                break
        return crops

    def _add(self, engine: Any) -> None:
        output = engine.state.output[0] if isinstance(engine.state.output, list) else engine.state.output
        if "dino" in output:
            self._sums = self._sums[0] + float(output["dino"]), self._sums[1] + float(output["entropy"])
            self._count += 1

    def _check(self, engine: Any) -> None:
        tokens = self._tokens(engine)
        rank, first = feature_rank(tokens), self.first_rank or 1.0
        score = EmbeddingCollapseMetric(include_indicators=["effective_rank"])(tokens)["effective_rank_score"]
        _logger.info("rank of %d patch tokens %.1f, %.1f before; collapse %.2f", len(tokens), rank, first, float(score))  # type: ignore[arg-type]
        if rank < _LEAST_RANK * first:
            raise RuntimeError(
                f"the features have collapsed in epoch {engine.state.epoch}: their rank is {rank:.1f}, below a quarter "
                f"of the {first:.1f} before; {_ADVICE}"
            )
        self._check_loss(engine)
        self._sums, self._count = (0.0, 0.0), 0

    def _check_loss(self, engine: Any) -> None:
        prototypes, schedule = (getattr(self.objective, name, None) for name in ("prototypes", "schedule"))
        if not isinstance(prototypes, int) or schedule is None or self._count == 0:
            return
        (loss, entropy), uniform = (total / self._count for total in self._sums), math.log(prototypes)
        near = max(abs(loss - uniform), abs(entropy - uniform)) < _NEAR_UNIFORM * uniform
        counts = near and int(self.objective.step) > schedule.warmup_steps  # type: ignore[arg-type]
        self._uniform_epochs = self._uniform_epochs + 1 if counts else 0
        if self._uniform_epochs == _PATIENCE:
            raise RuntimeError(
                f"the loss between views in epoch {engine.state.epoch} is {loss:.3f}, within 1 % of ln({prototypes}) = "
                f"{uniform:.3f}: the teacher says the same of every image; {_ADVICE}"
            )

    def _tokens(self, engine: Any) -> Tensor:
        return patch_tokens(self.objective.encoder, self._crops, self.tokens, engine.state.device)  # type: ignore[arg-type]


@torch.no_grad()
def patch_tokens(encoder: nn.Module, crops: list[Tensor], count: int, device: torch.device | str) -> Tensor:
    """Return patch tokens of images in fp32, on the CPU; always those of the same patches.

    Args:
        encoder: a network that ``encoder_view`` knows.
        crops: of each image, views (V, C, spatial...).
        count: number of tokens; all of them if there are fewer.
        device: where the encoder is.

    Returns:
        Tokens (n, D).

    Example:
        >>> from monai.networks.nets import ViT
        >>> net = ViT(1, 16, 8, hidden_size=48, mlp_dim=96, num_layers=1, num_heads=4)
        >>> patch_tokens(net, [torch.rand(2, 1, 16, 16, 16)], count=10, device="cpu").shape
        torch.Size([10, 48])
    """
    with in_eval(encoder):
        found = [encode_tokens(encoder, views.to(device))[1].flatten(0, 1).float().cpu() for views in crops]
    tokens = torch.cat(found)
    return tokens[torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))[:count]]


def feature_rank(tokens: Tensor) -> float:
    r"""Compute the smooth rank of features (RankMe, Garrido et al. 2023, arXiv 2210.02885, equation 1).

    With p the singular values of the tokens, divided by their sum:

    .. math:: \exp \Big( - \sum_i p_i \log p_i \Big)

    Args:
        tokens: (n, D).

    Returns:
        From 1, where all tokens are one, to min(n, D).

    Example:
        >>> round(feature_rank(torch.eye(8)), 3), round(feature_rank(torch.ones(8, 4)), 3)
        (8.0, 1.0)
    """
    values = torch.linalg.svdvals(tokens.double())
    shares = values / values.sum() + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))
