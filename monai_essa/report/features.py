# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Draw what an encoder makes of held-out scans: the principal components of its patch tokens as colours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from ignite.engine import Engine, Events
from PIL import Image
from torch import Tensor

from monai_essa.adapters.adaptation import disable_adapter
from monai_essa.anatomy import encoder_view
from monai_essa.files import written_whole
from monai_essa.pretext.distillation.views import cell_grid, encode_tokens, in_eval
from monai_essa.report.panels import Plane, display_planes, intensity_window, to_grey
from monai_essa.report.reconstructions import TILE, lay_out

__all__ = ["FeaturesPng", "component_colours", "features_montage"]

_COLUMNS = ("scan", "before", "after")
_IMAGES = {2: 4, 3: 2}  # that are drawn, by the number of axes
_MODES = {2: "bilinear", 3: "trilinear"}
_SHOWN = (1.0, 99.0)  # percentiles of a component that are black and full colour


class FeaturesPng:
    """Handler that draws patch tokens of held-out scans before and after the training, when it completes.

    The figure is that of DINO: three principal components of the tokens as red, green and blue. Before is the base, the
    network without its adapter. Attach it after the handler that hands a teacher over.

    Args:
        objective: a pretext objective with an ``encoder``, an adapted network.
        images: held-out items whose ``"image"`` has views (V, C, spatial...); the first view is drawn.
        path: the PNG file.
        spacing: voxel size in mm, one for each axis; default 1 mm.
    """

    def __init__(
        self, objective: nn.Module, images: Any, path: str | Path, spacing: Sequence[float] | None = None
    ) -> None:
        self.objective = objective
        self.images = images
        self.path = Path(path)
        self.spacing = spacing

    def attach(self, engine: Engine) -> None:
        """Attach to a MONAI trainer."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the picture."""
        first = self.images[0, 0]["image"]
        count = min(_IMAGES[first.dim() - 2], len(self.images))
        crops = torch.stack([self.images[0, number]["image"][0].as_subclass(Tensor) for number in range(count)])
        encoder: Any = self.objective.encoder
        with torch.no_grad(), in_eval(encoder):
            after = _token_maps(encoder, crops)
            with disable_adapter(encoder):
                before = _token_maps(encoder, crops)
        spacing = None if self.spacing is None else self.spacing[: crops.dim() - 2]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(self.path) as partial:
            features_montage(crops.numpy(), before, after, spacing).save(partial, format="PNG")


def features_montage(
    images: np.ndarray, before: np.ndarray, after: np.ndarray, spacing: Sequence[float] | None = None
) -> Image.Image:
    """Draw each image beside the colours of its tokens, in all planes through the middle.

    Args:
        images: (B, C, spatial...), 2-D or 3-D; the first channel is drawn.
        before: tokens (B, D, grid...) of the base.
        after: tokens (B, D', grid...) of the adapted encoder.
        spacing: voxel size in mm; default 1 mm.

    Returns:
        An RGB picture.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> tokens = rng.normal(size=(2, 8, 4, 4))
        >>> features_montage(rng.random((2, 1, 16, 16)), tokens, tokens).size
        (722, 486)
    """
    size = images.shape[2:]
    colours = [_resized(values, size) for values in (component_colours(before), component_colours(after, like=before))]
    rows, names = [], []
    for number, image in enumerate(images[:, 0]):
        window, planes = intensity_window(image), display_planes(image, spacing)
        scale = TILE / max(side for plane in planes for side in plane.size_mm)
        drawn = [[display_planes(channel, spacing) for channel in maps[number]] for maps in colours]
        for place, plane in enumerate(planes):
            tiles = [np.stack([to_grey(plane.pixels, window)] * 3, axis=-1)]
            tiles += [
                np.stack([to_grey(channel[place].pixels, (0.0, 1.0)) for channel in maps], axis=-1) for maps in drawn
            ]
            rows.append([_tile(tile, plane, scale) for tile in tiles])
            names.append(f"scan {number + 1}" if len(planes) == 1 else f"{number + 1}, {plane.name}")
    return lay_out(rows, names, _COLUMNS)


def component_colours(tokens: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
    r"""Turn tokens into colours by their first three principal components over all images.

    A component has no sign, and two of about the same size no order. So the components are rotated to those of ``like``
    (orthogonal Procrustes: with :math:`X^T Y = U S V^T` the rotation is :math:`U V^T`), and a colour means about the
    same in both. Each is then stretched between its percentiles 1 and 99.

    Args:
        tokens: (B, D, grid...).
        like: tokens (B, D', grid...) of the same patches by another network.

    Returns:
        (B, 3, grid...) from 0 to 1.

    Example:
        >>> tokens = np.random.default_rng(0).normal(size=(2, 8, 4, 4))
        >>> colours = component_colours(tokens)
        >>> bool(np.allclose(component_colours(-tokens, like=tokens), colours))
        True
    """
    scores = _scores(tokens)
    if like is not None:
        left, _, right = np.linalg.svd(scores.T @ _scores(like))
        scores = scores @ left @ right
    low, high = np.percentile(scores, _SHOWN, axis=0)
    shares = np.clip((scores - low) / np.maximum(high - low, 1e-12), 0, 1)
    return np.moveaxis(shares.reshape(tokens.shape[0], *tokens.shape[2:], 3), -1, 1)


def _scores(tokens: np.ndarray) -> np.ndarray:
    """Return three principal components (n, 3) of unit deviation; zeros where there are fewer."""
    rows = np.moveaxis(tokens, 1, -1).reshape(-1, tokens.shape[1]).astype(np.float64)
    rows = rows - rows.mean(axis=0)
    _, _, axes = np.linalg.svd(rows, full_matrices=False)
    scores = rows @ axes[:3].T
    scores = np.pad(scores, ((0, 0), (0, 3 - scores.shape[1])))
    return scores / np.maximum(scores.std(axis=0), 1e-12)


def _token_maps(encoder: nn.Module, crops: Tensor) -> np.ndarray:
    """Return the final tokens of crops (B, C, spatial...) as maps (B, D, grid...)."""
    images = crops.to(next(encoder.parameters()).device)
    tokens = encode_tokens(encoder, images)[1].float().cpu()
    return tokens.transpose(1, 2).unflatten(2, cell_grid(encoder_view(encoder), images)).numpy()


def _resized(colours: np.ndarray, size: Sequence[int]) -> np.ndarray:
    return F.interpolate(torch.from_numpy(colours), size=tuple(size), mode=_MODES[len(size)]).numpy()


def _tile(pixels: np.ndarray, plane: Plane, scale: float) -> Image.Image:
    height, width = (max(1, round(side * scale)) for side in plane.size_mm)
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.NEAREST)
