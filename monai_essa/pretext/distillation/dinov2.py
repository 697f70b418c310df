# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""DINOv2: a student learns what a teacher, its own moving average, sees in other views and in masked patches."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

from monai_essa.adapters.adaptation import disable_adapter
from monai_essa.adapters.adapted import is_adapted
from monai_essa.anatomy import EncoderDescription, encoder_view
from monai_essa.distributed.shares import all_rows
from monai_essa.pretext.batch_views import SPREAD, check_patients, first_of_each, view_major
from monai_essa.pretext.distillation.assignment import Centring, SinkhornKnopp
from monai_essa.pretext.distillation.crop_masks import CropMasks, crop_masks
from monai_essa.pretext.distillation.head import DINOHead, PrototypeHead
from monai_essa.pretext.distillation.losses import gram_loss, image_token_loss, masked_token_loss, spread_loss
from monai_essa.pretext.distillation.schedules import DistillationSchedule
from monai_essa.pretext.distillation.teacher import AveragedTensors
from monai_essa.pretext.distillation.views import (
    EncodedView,
    EncoderView,
    ViewEncoder,
    cell_grid,
    check_crop,
    encode_tokens,
    in_eval,
    token_width,
    uncached_autocast,
)

__all__ = ["DINOv2", "DistillationWeights"]

_ASSIGNMENTS = ("centring", "sinkhorn")


@dataclass(frozen=True)
class DistillationWeights:
    """How much each loss counts; the defaults are those of the released ESSA configuration.

    Attributes:
        dino: between views, of image tokens.
        ibot: of masked patches; 0 for a CNN, which has no patches to mask.
        koleo: against image tokens that crowd; needs four patients in a batch, else 0.
        gram: against patches that drift from the base (DINOv3); costs one forward pass of the base.

    Raises:
        ValueError: if a weight is below 0, or that of ``dino`` is not above 0.

    Example:
        >>> DistillationWeights(koleo=0.0)
        DistillationWeights(dino=1.0, ibot=1.0, koleo=0.0, gram=0.0)
    """

    dino: float = 1.0
    ibot: float = 1.0
    koleo: float = 0.1
    gram: float = 0.0

    def __post_init__(self) -> None:
        if self.dino <= 0 or min(self.ibot, self.koleo, self.gram) < 0:
            raise ValueError(f"expected weights of 0 or more, and dino above 0, got {self}")


_HEAD = DINOHead()
_WEIGHTS = DistillationWeights()


class DINOv2(nn.Module):
    """Self-distillation (DINOv2, Oquab et al. 2023, arXiv 2304.07193) with a frozen backbone, in 2-D and 3-D.

    The sum of DINO, iBOT and KoLeo, which the released ESSA code adapts by, and of Gram anchoring as an option. The
    teacher shares every frozen tensor with the student and averages those that learn, so it costs a forward pass and
    the size of the adapter. Call :meth:`before_step` before each optimizer step and :meth:`after_step` after it, as
    ``TrainStep`` does: prototypes wait in the first epoch, and teacher and centres move once a step. :meth:`hand_over`
    ends the training with the teacher's tensors in the encoder.

    Args:
        encoder: a ViT, UNETR, SwinUNETR, ResNet, SegResNet or another that ``encoder_view`` knows, plain or adapted; it
            is kept as the attribute ``encoder``, not copied. A CNN has no patches to mask: set ``ibot`` to 0.
        schedule: steps of the run, and what changes in them.
        head: size of the head.
        loss: the weights of the losses.
        assignment: ``"centring"``, or ``"sinkhorn"``, which needs many rows for each prototype.
        anatomy: where the parts of an encoder are that MONAI does not have; None if the network knows.

    Raises:
        ValueError: if iBOT is asked of a CNN, ``gram`` of a network that is not adapted, or ``assignment`` is unknown.
        TypeError: if the encoder is of an unknown class.

    Example:
        >>> from monai.networks.nets import ViT
        >>> net = ViT(1, 16, 8, hidden_size=48, mlp_dim=96, num_layers=1, num_heads=4, classification=True)
        >>> objective = DINOv2(net, DistillationSchedule(steps=10), DINOHead(prototypes=32, hidden_size=64))
        >>> parts = objective(torch.rand(4, 2, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0))
        >>> parts["loss"].backward()
        >>> objective.before_step()
        >>> objective.after_step()
        >>> sorted(parts)
        ['dino', 'entropy', 'ibot', 'koleo', 'loss']
    """

    step: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        schedule: DistillationSchedule,
        head: DINOHead = _HEAD,
        loss: DistillationWeights = _WEIGHTS,
        assignment: str = "centring",
        anatomy: EncoderDescription | None = None,
    ) -> None:
        super().__init__()
        view = encoder_view(encoder, anatomy=anatomy)
        _check_weights(loss, encoder, view)
        self.settings = [schedule, head, loss, assignment]  # what makes it this objective
        self.schedule = schedule
        self.loss = loss
        self.encoder = encoder
        self.head = PrototypeHead(token_width(view), head)
        self.image_targets = _assignment(assignment, head.prototypes)
        self.patch_targets = _assignment(assignment, head.prototypes)
        self.mask_token = nn.Parameter(torch.zeros(view.hidden_size)) if loss.ibot else None  # DINOv2 starts it at 0
        self.teacher = AveragedTensors(self._student())
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @property
    def prototypes(self) -> int:
        """K, the number of prototypes: a teacher that says the same of all images has a loss of ln(K)."""
        return len(self.head.prototypes)

    def forward(
        self,
        global_crops: Tensor,
        local_crops: Tensor | None = None,
        patients: Sequence[Hashable] | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            global_crops: (B, G, C, spatial...), G of two or more views; both networks see them.
            local_crops: (B, L, C, smaller spatial...); the student alone sees them.
            patients: whose crops they are; None: B patients.
            generator: source of the masks; None uses the global one of the CPU.

        Returns:
            ``loss``, a scalar, those of its parts that count (``dino``, ``ibot``, ``koleo``, ``gram``), and the mean
            ``entropy`` of the teacher's targets: ln(K) if it says the same of every image.

        Raises:
            ValueError: if the crops do not fit the encoder, or KoLeo has fewer than four patients while training.
        """
        rows = first_of_each(patients, len(global_crops))
        if self.loss.koleo and self.training:
            check_patients(len(rows), SPREAD, "KoLeo", "set its weight to 0")
        with uncached_autocast(global_crops.device):
            parts, entropy = self._parts(global_crops, local_crops, rows, generator)
        total = torch.stack([getattr(self.loss, name) * part for name, part in parts.items()]).sum()
        return {"loss": total, **parts, "entropy": entropy}

    def before_step(self) -> None:
        """Take the gradient from prototypes that do not learn yet.

        A gradient of zeros would not do: the optimizer would count the step, decay them, and begin too fast later.
        """
        if not self.schedule.prototypes_learn(self.step):
            self.head.prototypes.grad = None

    def after_step(self) -> None:
        """Move the teacher and the centres after a step of the optimizer, and count it."""
        self.teacher.follow(self._student(), self.schedule.teacher_momentum(self.step))
        self.image_targets.after_step()
        self.patch_targets.after_step()
        self.step += 1

    def restart(self) -> None:
        """Begin again at step 0 with a teacher that is a copy, as after a head was loaded or frozen."""
        self.teacher.restart(self._student())
        self.step.zero_()

    def hand_over(self) -> None:
        """Copy the teacher into the encoder: it is what DINOv2 and ESSA hand over. In place."""
        self.teacher.copy_to(self._student(), "encoder.")

    def head_parameters(self) -> list[nn.Parameter]:
        """List what is trained beside the encoder: the head and the mask token."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("encoder.")]

    def _parts(
        self, global_crops: Tensor, local_crops: Tensor | None, rows: list[int], generator: torch.Generator | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        views = global_crops.shape[1]
        images = view_major(global_crops)  # (G * B, C, spatial...)
        masks = self._masks(images, generator)
        targets, patch_targets = self._targets(images, masks)

        student = self._student()
        seen: EncodedView = student(images, masks, self.mask_token)
        logits = [seen.image_logits.unflatten(0, (views, -1))]
        if local_crops is not None:
            local: EncodedView = student(view_major(local_crops))
            logits.append(local.image_logits.unflatten(0, (local_crops.shape[1], -1)))

        parts = {"dino": image_token_loss(torch.cat(logits), targets.unflatten(0, (views, -1)))}
        if masks is not None and seen.patch_logits is not None and patch_targets is not None:
            parts["ibot"] = masked_token_loss(seen.patch_logits, patch_targets, masks.weights, len(images))
        if self.loss.koleo and len(rows) >= SPREAD:
            tokens = all_rows(seen.image.unflatten(0, (views, -1)).transpose(0, 1))  # (B, G, D)
            groups = tokens[rows].transpose(0, 1)  # one view of a patient in each
            parts["koleo"] = torch.stack([spread_loss(group) for group in groups]).sum()
        if self.loss.gram:
            parts["gram"] = gram_loss(seen.patches, self._base_tokens(images))
        return parts, torch.special.entr(targets).sum(-1).mean()

    def _student(self) -> ViewEncoder:
        return ViewEncoder(self.encoder, self.head)

    def _masks(self, images: Tensor, generator: torch.Generator | None) -> CropMasks | None:
        view = encoder_view(self.encoder)
        check_crop(view, images)
        return crop_masks(len(images), cell_grid(view, images), generator, images.device) if self.loss.ibot else None

    @torch.no_grad()
    def _targets(self, images: Tensor, masks: CropMasks | None) -> tuple[Tensor, Tensor | None]:
        temperature = self.schedule.teacher_temperature(self.step).float()
        seen: EncodedView = self.teacher.run(self._student(), images, masks)
        targets = self.image_targets(seen.image_logits, temperature)
        return targets, None if seen.patch_logits is None else self.patch_targets(seen.patch_logits, temperature)

    @torch.no_grad()
    def _base_tokens(self, images: Tensor) -> Tensor:
        with disable_adapter(self.encoder), in_eval(self.encoder):
            return encode_tokens(self.encoder, images)[1]


def _check_weights(loss: DistillationWeights, encoder: nn.Module, view: EncoderView) -> None:
    kind = type(encoder).__name__
    if loss.ibot and view.patch_embedding is None:
        raise ValueError(f"iBOT masks patches, and {kind} embeds none: set the weight ibot to 0, or take a transformer")
    if loss.gram and not is_adapted(encoder):
        raise ValueError(f"Gram anchoring compares with the base of an adapted network, and {kind} is not adapted")


def _assignment(name: str, prototypes: int) -> Centring | SinkhornKnopp:
    if name not in _ASSIGNMENTS:
        raise ValueError(f"expected assignment to be one of {', '.join(_ASSIGNMENTS)}, got {name!r}")
    return Centring(prototypes) if name == "centring" else SinkhornKnopp()
