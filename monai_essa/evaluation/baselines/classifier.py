# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The ridge floors of a classification: a regression on frozen features, or on voxels, in the place of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from monai.data import Dataset
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from monai_essa.data.pairing.names import patient_of
from monai_essa.evaluation.baselines.ridge import fit_ridge

__all__ = ["RidgeClassifier", "owner_of"]

_LEAST = 1.0e-4  # probability: the regression may leave 0 to 1, and a certain error would be no floor


class RidgeClassifier(nn.Module):
    """A network's stand-in that is fitted in closed form when it is made: nothing of it trains.

    The classes, as 0 and 1, are regressed on the features; the prediction is cut to 0 to 1 and, where an image has one
    class, divided by its sum. The penalty is chosen on the training images alone, by leaving out one patient at a time.

    Args:
        features: called as ``features(crops=images)`` with images (C, spatial...) of one shape; returns (K, F).
        dataset: of the training images, preprocessed as those to come, each with ``image`` and ``label``.
        num_classes: how many there are.
        multi_label: whether an image may be of several classes or none.
        patients: of the images, by path, as :func:`monai_essa.data.listed_patients` returns them; default: guessed from
            the names of files.

    Raises:
        ValueError: if there is no training image, or a feature is not finite.

    Example:
        >>> images = torch.cat([torch.zeros(8, 1, 4, 4), torch.ones(8, 1, 4, 4)])
        >>> items = [{"image": image, "label": number // 8} for number, image in enumerate(images)]
        >>> flat = lambda crops: torch.stack(crops).flatten(1).numpy()
        >>> RidgeClassifier(flat, items, num_classes=2)(torch.ones(1, 1, 4, 4)).softmax(dim=1).round(decimals=2)
        tensor([[0., 1.]])
    """

    def __init__(
        self,
        features: Callable[..., np.ndarray],
        dataset: Dataset | Sequence[Mapping[str, Any]],
        num_classes: int,
        multi_label: bool = False,
        patients: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        items = [dataset[number] for number in range(len(dataset))]
        if not items:
            raise ValueError("expected training images for the ridge regression, got none")
        self.features = features
        self.multi_label = multi_label
        targets = np.stack([_one_hot(item[Keys.LABEL], num_classes) for item in items])
        owners = [owner_of(item[Keys.IMAGE], number, patients) for number, item in enumerate(items)]
        self.ridge = fit_ridge(features(crops=[item[Keys.IMAGE] for item in items]), targets, owners)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images (B, C, spatial...): their softmax, or sigmoid, is the prediction."""
        predicted = np.clip(self.ridge.predict(self.features(crops=list(images))), _LEAST, 1 - _LEAST)
        logits = np.log(predicted) - (np.log1p(-predicted) if self.multi_label else 0.0)
        return torch.as_tensor(logits, dtype=torch.float32, device=images.device)


def owner_of(image: Any, number: int, patients: Mapping[str, str]) -> str:
    """Return the patient of an image; one of its own where the image does not say its file.

    Args:
        image: a MetaTensor, or any array.
        number: of the image in its dataset.
        patients: by path.
    """
    path = str(getattr(image, "meta", {}).get("filename_or_obj", ""))
    return patients.get(path) or (patient_of(path) if path else f"image {number}")


def _one_hot(label: Any, num_classes: int) -> np.ndarray:
    classes = np.asarray(label)
    return classes.astype(float) if classes.ndim else np.eye(num_classes)[int(classes)]
