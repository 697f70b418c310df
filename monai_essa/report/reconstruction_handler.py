# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A picture of what the network reconstructs, written while it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor

from monai_essa.pretext import MAE, SimMIM
from monai_essa.report.reconstruction_png import write_reconstruction_png

__all__ = ["ReconstructionPng", "write_reconstructions"]


class ReconstructionPng:
    """Handler that writes original, masked and reconstructed slices of one image after each epoch.

    The image and its mask stay the same, so the pictures of two epochs can be compared.

    Args:
        objective: a pretext objective with ``reconstruct``.
        images: a dataset whose first item's ``"image"`` (C, spatial...) is shown.
        path: the PNG file; overwritten after each epoch.
        seed: of the mask.
    """

    def __init__(self, objective: MAE | SimMIM, images: Any, path: str | Path, seed: int = 0) -> None:
        self.objective = objective
        self.images = images
        self.path = Path(path)
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Attach to a MONAI trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the picture."""
        _write(self.objective, self.images[0], self.path, self.seed)


def write_reconstructions(objective: MAE | SimMIM, images: Any, folder: str | Path, seed: int = 0) -> list[Path]:
    """Write one picture for each image of a dataset.

    Args:
        objective: a pretext objective with ``reconstruct``.
        images: a dataset of items with ``"image"`` (C, spatial...).
        folder: where the pictures go, named by number, since a file name may name a patient.
        seed: of the masks.

    Returns:
        The files.
    """
    paths = [Path(folder) / f"{number:04d}.png" for number in range(len(images))]
    for number, path in enumerate(paths):
        _write(objective, images[number], path, seed)
    return paths


def _write(objective: MAE | SimMIM, item: Any, path: Path, seed: int) -> None:
    device = next(objective.parameters()).device
    image = torch.as_tensor(item["image"]).as_subclass(torch.Tensor)[None].to(device)
    training = objective.training
    objective.eval()
    with torch.no_grad():
        shown = objective.reconstruct(image, generator=torch.Generator().manual_seed(seed))
    objective.train(training)
    path.parent.mkdir(parents=True, exist_ok=True)
    original, masked, prediction = (shown[name][0].float().cpu() for name in ("original", "masked", "prediction"))
    spacing = item["image"].pixdim.tolist() if isinstance(item["image"], MetaTensor) else None
    write_reconstruction_png(path, original, masked, prediction, spacing)
