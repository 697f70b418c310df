# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Draw masked volumes and their reconstructions as PNG pictures during a training."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from PIL import Image, ImageDraw, ImageFont

from monai_essa.distributed.processes import process_rank
from monai_essa.files import written_whole
from monai_essa.pretext import MAE, SimMIM
from monai_essa.report.panels import Plane, display_planes, intensity_window, to_grey

__all__ = [
    "TILE",
    "ReconstructionPng",
    "lay_out",
    "reconstruction_montage",
    "write_reconstruction_png",
    "write_reconstructions",
]

_COLUMNS = ("original", "masked", "reconstructed")
TILE = 224
"""Pixels of the longest side of a slice."""
_GAP = 6
_HEADER = 26
_TEXT_SIZE = 14
_PAPER, _INK = 255, 0


def reconstruction_montage(
    original: torch.Tensor | np.ndarray,
    masked: torch.Tensor | np.ndarray,
    prediction: torch.Tensor | np.ndarray,
    spacing: Sequence[float] | None = None,
    channel: int = 0,
) -> np.ndarray:
    """Draw what a masked-image objective saw and what it reconstructed.

    Rows are the axial, coronal and sagittal plane through the middle (one row for a 2-D image), columns the original,
    the masked and the reconstructed image. All share the grey scale of the original, at true proportions.

    Args:
        original: image before masking, (C, x, y) or (C, x, y, z).
        masked: the same with masked patches blanked, same shape.
        prediction: the reconstruction, same shape.
        spacing: voxel size in mm, one per spatial axis; default 1 mm.
        channel: the channel to show.

    Returns:
        Grey picture with column titles, uint8, (rows, columns).

    Raises:
        ValueError: if the shapes differ, or are not (C, x, y) or (C, x, y, z).

    Example:
        >>> volume = np.random.default_rng(0).normal(size=(1, 16, 24, 16))
        >>> reconstruction_montage(volume, volume * 0.5, volume).shape
        (566, 722)
    """
    images = [_one_channel(image, channel) for image in (original, masked, prediction)]
    if len({image.shape for image in images}) > 1:
        shapes = ", ".join(f"{name} {image.shape}" for name, image in zip(_COLUMNS, images, strict=True))
        raise ValueError(f"expected one shape for all three images, got {shapes}")

    window = intensity_window(images[0])
    columns = [display_planes(image, spacing) for image in images]
    scale = TILE / max(side for plane in columns[0] for side in plane.size_mm)
    rows = [[_tile(plane, window, scale) for plane in planes] for planes in zip(*columns, strict=True)]
    return np.asarray(lay_out(rows, [plane.name for plane in columns[0]], _COLUMNS))


def write_reconstruction_png(
    path: str | os.PathLike,
    original: torch.Tensor | np.ndarray,
    masked: torch.Tensor | np.ndarray,
    prediction: torch.Tensor | np.ndarray,
    spacing: Sequence[float] | None = None,
    channel: int = 0,
) -> Path:
    """Write `reconstruction_montage` to a file, which appears only when complete and replaces an older one.

    Args:
        path: PNG file in an existing folder.
        original: see `reconstruction_montage`, as for the arguments that follow.
        masked: see there.
        prediction: see there.
        spacing: see there.
        channel: see there.

    Returns:
        The path.
    """
    path = Path(path)
    picture = Image.fromarray(reconstruction_montage(original, masked, prediction, spacing, channel))
    with written_whole(path) as partial:
        picture.save(partial, format="PNG")
    return path


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
        """Attach to a MONAI trainer; of a distributed run in the first process alone."""
        if process_rank() == 0:
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


def lay_out(rows: Sequence[Sequence[Image.Image]], names: Sequence[str], columns: Sequence[str]) -> Image.Image:
    """Lay tiles out as a table with titles; a single row has no name.

    Args:
        rows: tiles of one mode; those of a row are of one height.
        names: of the rows.
        columns: titles.

    Returns:
        A picture of the tiles' mode.

    Example:
        >>> lay_out([[Image.new("L", (10, 8))] * 2], ["axial"], ["scan", "features"]).size
        (38, 40)
    """
    tile_width = max(tile.width for row in rows for tile in row)
    margin = 0 if len(rows) == 1 else _HEADER
    width = margin + len(columns) * (tile_width + _GAP) + _GAP
    height = _HEADER + sum(row[0].height + _GAP for row in rows)
    page = Image.new("L", (width, height), _PAPER).convert(rows[0][0].mode)
    lefts = [margin + _GAP + column * (tile_width + _GAP) for column in range(len(columns))]

    for title, left in zip(columns, lefts, strict=True):
        page.paste(_caption(title, tile_width, _HEADER), (left, 0))
    top = _HEADER
    for row, name in zip(rows, names, strict=True):
        if margin:
            page.paste(_caption(name, row[0].height, margin).rotate(90, expand=True), (0, top))
        for tile, left in zip(row, lefts, strict=True):
            page.paste(tile, (left + (tile_width - tile.width) // 2, top))
        top += row[0].height + _GAP
    return page


def _one_channel(image: torch.Tensor | np.ndarray, channel: int) -> np.ndarray:
    values = image.detach().cpu().float().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if values.ndim not in (3, 4):
        raise ValueError(f"expected (C, x, y) or (C, x, y, z), got shape {values.shape}; pick one item of a batch")
    if not 0 <= channel < len(values):
        raise ValueError(f"channel {channel} does not exist, the image has {len(values)} channels")
    return values[channel]


def _tile(plane: Plane, window: tuple[float, float], scale: float) -> Image.Image:
    height, width = (max(1, round(side * scale)) for side in plane.size_mm)
    return Image.fromarray(to_grey(plane.pixels, window)).resize((width, height), Image.Resampling.NEAREST)


def _caption(text: str, width: int, height: int) -> Image.Image:
    strip = Image.new("L", (width, height), _PAPER)
    draw = ImageDraw.Draw(strip)
    draw.text((width / 2, height / 2), text, fill=_INK, font=ImageFont.load_default(_TEXT_SIZE), anchor="mm")
    return strip


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
    # A single slice of a volume keeps the volume's three lengths.
    spacing = item["image"].pixdim.tolist()[: original.dim() - 1] if isinstance(item["image"], MetaTensor) else None
    write_reconstruction_png(path, original, masked, prediction, spacing)
