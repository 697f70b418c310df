# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The ridge floor of a segmentation: a regression on frozen features of each position, in the place of a decoder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from monai.data import Dataset
from monai.data.utils import dense_patch_slices
from monai.networks import one_hot
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from monai_essa.anatomy import FeatureMapEncoder, encoder_view
from monai_essa.evaluation.baselines.classifier import owner_of
from monai_essa.evaluation.baselines.ridge import fit_ridge

__all__ = ["RidgeSegmenter", "feature_grid"]

_NEAR = 8  # voxels between the positions of feature maps, if there is a map as fine
_CELLS = 4  # along each axis of a position's block: its label is predicted in so many steps
_MOST_POSITIONS = 2000  # of all training scans: the regression solves a system of this size
_FACTORS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12)  # of the background's share
_LEAST = 1.0e-4  # share of a class: the regression may leave 0 to 1
_MODES = {2: "bilinear", 3: "trilinear"}
_BLOCKS = {2: ("c (x i) (y j)", "(x y) (c i j)"), 3: ("c (x i) (y j) (z k)", "(x y z) (c i j k)")}


class RidgeSegmenter(nn.Module):
    """A segmentation network's stand-in that is fitted in closed form when it is made: nothing of it trains.

    From the features of each position of a frozen encoder, the share of every class is regressed in each of 4 cells
    along each axis of the position's block of voxels; between the cells it is interpolated. A regression shrinks the
    shares of small classes, so that the largest share is almost always that of the background: its share is multiplied
    by the factor, at most 1, that gives the best Dice. This factor and the penalty are chosen on the training scans
    alone, by leaving out one patient at a time.

    Args:
        network: holds the frozen encoder.
        dataset: of the training scans, preprocessed as those to come, each with ``image`` (C, spatial...) and ``label``
            (1, spatial...), none smaller than ``img_size``.
        num_classes: with the background.
        img_size: voxels of a crop that the encoder sees at once.
        patients: of the scans, by path, as :func:`monai_essa.data.listed_patients` returns them; default: guessed from
            the names of files.

    Attributes:
        ridge: the regression.
        background: the factor of the background's share.

    Raises:
        ValueError: if there is no training scan, or a feature is not finite.

    Example:
        >>> from monai.networks.nets import ViT
        >>> image = torch.zeros(1, 32, 32)
        >>> image[:, :16] = 1.0
        >>> vit = ViT(1, (32, 32), (8, 8), hidden_size=24, mlp_dim=48, num_layers=1, num_heads=2, spatial_dims=2)
        >>> floor = RidgeSegmenter(vit, 4 * [{"image": image, "label": image}], num_classes=2, img_size=(32, 32))
        >>> floor(image[None]).argmax(dim=1)[0, ::16, 0]
        tensor([1, 0])
    """

    def __init__(
        self,
        network: nn.Module,
        dataset: Dataset | Sequence[Mapping[str, Any]],
        num_classes: int,
        img_size: Sequence[int],
        patients: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        if not len(dataset):
            raise ValueError("expected training scans for the ridge regression, got none")
        self.network = network.eval()
        self.num_classes = num_classes
        features, targets, owners = [], [], []
        for number in range(len(dataset)):
            item = dataset[number]
            positions, blocks = self._positions(item[Keys.IMAGE], item[Keys.LABEL], img_size)
            draw = torch.Generator().manual_seed(number)
            kept = torch.randperm(len(positions), generator=draw)[: max(1, _MOST_POSITIONS // len(dataset))].numpy()
            features.append(positions[kept])
            targets.append(blocks[kept])
            owners += len(kept) * [owner_of(item[Keys.IMAGE], number, patients)]
        truth = np.concatenate(targets)
        self.ridge = fit_ridge(np.concatenate(features), truth, owners)
        self.background = _best_factor(*(_by_class(each, num_classes) for each in (self.ridge.left_out, truth)))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes, spatial...) of crops (B, C, spatial...): their softmax is the prediction."""
        grids = feature_grid(self.network, images)  # (B, D, grid...)
        cells = _cells(images.shape[2:], grids.shape[2:])
        split, joined = _BLOCKS[len(cells)]
        sides = dict(zip("xyz", grids.shape[2:], strict=False)) | dict(zip("ijk", cells, strict=False))
        blocks = (torch.as_tensor(self.ridge.predict(_rows(grid)), dtype=torch.float32) for grid in grids)
        coarse = [rearrange(each, f"{joined} -> {split}", c=self.num_classes, **sides) for each in blocks]
        shares = F.interpolate(torch.stack(coarse), size=images.shape[2:], mode=_MODES[len(cells)])
        logits = shares.clamp(_LEAST, 1 - _LEAST).log()
        logits[:, 0] += math.log(self.background)
        return logits.to(images.device)

    @torch.no_grad()
    def _positions(self, image: Tensor, label: Tensor, img_size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return features (N, D) of the positions of a scan, and shares of classes in their cells (N, C x cells)."""
        device = next(self.network.parameters()).device
        image, label = (torch.as_tensor(each).as_subclass(Tensor) for each in (image, label))
        features, targets = [], []
        for window in dense_patch_slices(image.shape[1:], img_size, img_size):
            crop = (slice(None), *window)
            grid = feature_grid(self.network, image[crop][None].to(device))[0]
            cells = _cells(img_size, grid.shape[1:])
            size = [count * side for count, side in zip(cells, grid.shape[1:], strict=True)]
            truth = one_hot(label[crop][None].long(), self.num_classes).float()
            pool: Any = F.adaptive_avg_pool2d if len(cells) == 2 else F.adaptive_avg_pool3d
            split, joined = _BLOCKS[len(cells)]
            sides = dict(zip("ijk", cells, strict=False))
            features.append(_rows(grid))
            targets.append(rearrange(pool(truth, size)[0], f"{split} -> {joined}", **sides).numpy())
        return np.concatenate(features), np.concatenate(targets)


@torch.no_grad()
def feature_grid(network: nn.Module, images: Tensor) -> Tensor:
    """Return the final features of a network's encoder on their grid.

    Args:
        network: its encoder is known.
        images: (B, C, spatial...).

    Returns:
        (B, D, grid...): the final tokens in their places; of an encoder of feature maps all of its maps, brought to the
        grid of the one whose positions lie closest to 8 voxels apart.

    Example:
        >>> from monai.networks.nets import ViT
        >>> vit = ViT(1, (32, 32), (8, 8), hidden_size=24, mlp_dim=48, num_layers=1, num_heads=2, spatial_dims=2)
        >>> feature_grid(vit, torch.rand(1, 1, 32, 32)).shape
        torch.Size([1, 24, 4, 4])
    """
    view = encoder_view(network)
    if not isinstance(view, FeatureMapEncoder):
        tokens = view.encode(view.embed(images))  # (B, N, D)
        return tokens.transpose(1, 2).unflatten(2, view.grid(images.shape[2:]))
    maps = view.features(images)
    chosen = min(maps, key=lambda each: abs(images.shape[2] / each.shape[2] - _NEAR))
    size, mode = chosen.shape[2:], _MODES[chosen.dim() - 2]
    return torch.cat([F.interpolate(each, size=size, mode=mode) for each in maps], dim=1)


def _by_class(blocks: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the shares in cells, (N x cells, C), of blocks (N, C x cells)."""
    return blocks.reshape(len(blocks), num_classes, -1).transpose(0, 2, 1).reshape(-1, num_classes)


def _best_factor(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return the factor of the background's share by which cells are labelled best; 1 where none is better.

    Args:
        predicted: (N, C), shares of the classes in a cell, predicted without its patient.
        truth: (N, C).
    """
    labels = truth.argmax(axis=1)
    found = {}
    for factor in _FACTORS if np.isfinite(predicted).all() else ():
        guessed = (predicted * np.where(np.arange(truth.shape[1]) == 0, factor, 1.0)).argmax(axis=1)
        both = [((guessed == each) & (labels == each)).sum() for each in range(1, truth.shape[1])]
        either = [(guessed == each).sum() + (labels == each).sum() for each in range(1, truth.shape[1])]
        found[factor] = np.mean([2 * one / all_ for one, all_ in zip(both, either, strict=True) if all_] or [0.0])
    return max(found, key=lambda factor: (found[factor], factor), default=1.0)


def _rows(grid: Tensor) -> np.ndarray:
    """Return a row for each position, (N, D), of features (D, grid...)."""
    rows: np.ndarray = grid.float().flatten(1).T.cpu().numpy()
    return rows


def _cells(spatial_shape: Sequence[int], grid: Sequence[int]) -> list[int]:
    """Return the cells along each axis of a position's block: never smaller than a voxel."""
    return [min(_CELLS, size // count) for size, count in zip(spatial_shape, grid, strict=True)]
