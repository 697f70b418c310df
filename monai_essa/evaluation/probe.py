# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Ask whether the features of a frozen encoder tell more about some scans than those of the same network at random."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from monai_essa.anatomy import FeatureMapEncoder, encoder_view
from monai_essa.evaluation.baselines.ridge import ridge_errors
from monai_essa.evaluation.repeats import spread, student_half_width

__all__ = ["LEAST_PATIENTS", "ProbeResult", "pooled_features", "probe_features", "raw_features", "same_place_found"]

LEAST_PATIENTS = 20
"""With fewer patients a probe decides nothing."""
_LEVEL = 0.95
_RAW_SIDE = {2: 32, 3: 10}  # voxels along each axis of a resampled crop: about a thousand values


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Attributes:
        question: what was predicted from the features, in words.
        patients: how many there are.
        crops: how many there are.
        pretrained: share of the target's variance that the features of the weight file explain on patients left out;
            at most 1, and below 0 if they predict worse than the mean.
        random: the same for the network with random weights, the mean over their draws.
        raw: the same for the voxels themselves.
        difference: ``pretrained - random``.
        low: lower end of the 95 % interval of the difference; NaN if nothing was decided.
        high: upper end.
    """

    question: str
    patients: int
    crops: int
    pretrained: float = math.nan
    random: float = math.nan
    raw: float = math.nan
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def word(self) -> str:
        """``"alive"``, ``"worse than random"``, ``"no difference shown"`` or ``"not decided"``."""
        if math.isnan(self.low):
            return "not decided"
        if self.low > 0:
            return "alive"
        return "worse than random" if self.high < 0 else "no difference shown"

    def __str__(self) -> str:
        if self.patients < LEAST_PATIENTS:
            return f"not decided: {self.patients} patients, and a probe needs {LEAST_PATIENTS}"
        shares = f"{self.pretrained:.2f} with these weights, {self.random:.2f} at random, {self.raw:.2f} from voxels"
        interval = "no interval" if math.isnan(self.low) else f"95 % interval {self.low:+.2f} to {self.high:+.2f}"
        return (
            f"{self.word}: explained share of {self.question} {shares}; weights minus random {self.difference:+.2f} "
            f"({interval}), {self.crops} crops of {self.patients} patients"
        )


def probe_features(
    pretrained: np.ndarray,
    random: Sequence[np.ndarray],
    raw: np.ndarray,
    targets: np.ndarray,
    patients: Sequence[str],
    question: str = "the labels",
) -> ProbeResult:
    r"""Compare features of pretrained weights with those of random weights by ridge regression on patients left out.

    With :math:`d_{r,i}` the difference of the errors between the r-th random network and the pretrained one, averaged
    over the crops of patient i, of R networks and N patients,

    .. math:: SE^2 = \operatorname{var}_i(\bar d_{\cdot i}) / N + (1 + 1/R) \operatorname{var}_r(\bar d_{r \cdot})

    with Student's t at Satterthwaite's degrees of freedom. The second term is the spread of one more random network:
    weights that are themselves a random draw differ from the others by that much. The error of a constant is 1, so that
    differences of errors are differences of explained shares.

    Args:
        pretrained: (K, F), a row for each of K crops.
        random: of each random network, (K, F); at least 3 networks.
        raw: (K, V), the voxels.
        targets: (K, C), what is predicted.
        patients: of each crop.
        question: the name of the targets, for the text.

    Returns:
        The result; without an interval if there are fewer than 20 patients, or if no target varies.

    Raises:
        ValueError: if there are fewer than 3 random networks, or features are not finite.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> truth = rng.normal(size=(40, 1))
        >>> noise = [rng.normal(size=(40, 8)) for _ in range(3)]
        >>> names = [str(number) for number in range(40)]
        >>> probe_features(truth + 0.1 * noise[0], noise, noise[0], truth, names).word
        'alive'
    """
    if len(random) < 3:
        raise ValueError(f"expected the features of at least 3 random networks, got {len(random)}")
    varying = targets.std(axis=0) > 0
    found = len(set(patients))
    if found < LEAST_PATIENTS or not varying.any():
        return ProbeResult(question, patients=found, crops=len(targets))
    scaled = (targets - targets.mean(axis=0))[:, varying] / targets.std(axis=0)[varying]
    of_patients = [ridge_errors(features, scaled, patients) for features in (pretrained, raw, *random)]
    own, voxels, others = of_patients[0], of_patients[1], np.stack(of_patients[2:])  # (N,), (N,), (R, N)
    difference, half = _paired_interval(others - own)
    return ProbeResult(
        question=question,
        patients=found,
        crops=len(targets),
        pretrained=float(1 - own.mean()),
        random=float(1 - others.mean()),
        raw=float(1 - voxels.mean()),
        difference=difference,
        low=difference - half,
        high=difference + half,
    )


def same_place_found(first: np.ndarray, second: np.ndarray) -> float:
    """Return how often the nearest features among all second views are those of the same place.

    A 1-nearest-neighbour probe of what features keep of a neighbourhood: two crops that overlap should be more alike
    than crops of other places or patients.

    Args:
        first: (K, F), features of K places.
        second: (K, F), features of the same places, seen a little aside.

    Returns:
        The share, from 0 to 1, by the cosine of features that are centred on the mean of all views.

    Example:
        >>> places = np.eye(4)
        >>> same_place_found(places, places)
        1.0
    """
    mean = np.concatenate([first, second]).mean(axis=0)
    unit = [(views - mean) / np.maximum(np.linalg.norm(views - mean, axis=1, keepdims=True), 1e-12)
            for views in (first, second)]  # fmt: skip
    return float(np.mean((unit[0] @ unit[1].T).argmax(axis=1) == np.arange(len(first))))


def pooled_features(network: nn.Module, crops: Sequence[Tensor], batch: int = 4) -> np.ndarray:
    """Return mean, maximum and standard deviation over the final tokens, or the deepest feature map, of each crop.

    Args:
        network: a network whose encoder is known, on any device; it is left in the mode in which it was.
        crops: K images (C, spatial...) of one shape.
        batch: how many are computed at once.

    Returns:
        (K, 3 D).
    """
    return _pooled(network, _final_features(network), crops, batch)


def pooled_tokens(encoder: nn.Module, crops: Sequence[Tensor], batch: int = 4) -> np.ndarray:
    """Return the same of an encoder that returns its tokens (B, N, D), as that of a classification network does.

    Args:
        encoder: ``encoder`` of :func:`monai_essa.anatomy.classification_network`.
        crops: as for :func:`pooled_features`.
        batch: likewise.

    Returns:
        (K, 3 D).
    """
    return _pooled(encoder, encoder, crops, batch)


def raw_features(crops: Sequence[Tensor]) -> np.ndarray:
    """Return the voxels of each crop, averaged to about a thousand values.

    Args:
        crops: K images (C, spatial...) of one shape, 2-D or 3-D.

    Returns:
        (K, V).
    """
    axes = crops[0].dim() - 1
    size: Any = [min(_RAW_SIDE[axes], side) for side in crops[0].shape[1:]]
    pool: Any = F.adaptive_avg_pool2d if axes == 2 else F.adaptive_avg_pool3d
    return torch.stack([pool(crop.float()[None], size).flatten() for crop in crops]).numpy()


@torch.no_grad()
def _pooled(network: nn.Module, final: Callable[[Tensor], Tensor], crops: Sequence[Tensor], batch: int) -> np.ndarray:
    device = next(network.parameters()).device
    training, features = network.training, []
    network.eval()
    try:
        for start in range(0, len(crops), batch):
            positions = final(torch.stack(list(crops[start : start + batch])).to(device)).float()  # (B, N, D)
            parts = (positions.mean(dim=1), positions.amax(dim=1), positions.std(dim=1, correction=0))
            features.append(torch.cat(parts, dim=1).cpu())
    finally:
        network.train(training)
    return torch.cat(features).numpy()


def _final_features(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the function from images to the features (B, N, D) of the encoder's last positions."""
    view = encoder_view(network)
    if isinstance(view, FeatureMapEncoder):
        return lambda images: view.features(images)[-1].flatten(2).transpose(1, 2)  # (B, D, grid...) -> (B, N, D)
    return lambda images: view.encode(view.embed(images))


def _paired_interval(differences: np.ndarray) -> tuple[float, float]:
    """Return the mean of differences (R, N) and half the width of its interval; NaN if they do not vary."""
    networks, patients = differences.shape
    of_patients, of_networks = spread(differences)
    terms = [of_patients / patients, of_networks * (1 + 1 / networks)]
    half = student_half_width(terms, [patients - 1, networks - 1], _LEVEL)
    return float(differences.mean()), float(half)
