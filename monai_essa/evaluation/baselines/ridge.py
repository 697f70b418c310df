# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Ridge regression in closed form, whose penalty is chosen by leaving out one patient at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

__all__ = ["Ridge", "fit_ridge", "ridge_errors"]

_PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)  # relative to features of unit variance
_INTERCEPT = 1.0e3  # variance of the constant feature: practically without a penalty


@dataclass(frozen=True, eq=False)
class Ridge:
    """A fitted ridge regression.

    Attributes:
        centre: (F,), the mean of each feature.
        scale: (F,), its standard deviation; 0 for a feature that does not vary, which is left out.
        scaled: (K, F'), the scaled features that it was fitted on.
        coefficients: (K, C), of the kernel.
        penalty: that was chosen.
        left_out: (K, C), what a regression without the patient of a row predicts for it; NaN with a single patient.
    """

    centre: np.ndarray
    scale: np.ndarray
    scaled: np.ndarray
    coefficients: np.ndarray
    penalty: float
    left_out: np.ndarray

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Predict the targets from features.

        Args:
            features: (M, F).

        Returns:
            (M, C).
        """
        alive = self.scale > 0
        scaled = (features.astype(np.float64)[:, alive] - self.centre[alive]) / self.scale[alive]
        predicted: np.ndarray = _kernel(scaled, self.scaled) @ self.coefficients
        return predicted


def fit_ridge(features: np.ndarray, targets: np.ndarray, patients: Sequence[str]) -> Ridge:
    """Fit a ridge regression with an intercept.

    Args:
        features: (K, F); each is scaled to unit variance here.
        targets: (K, C).
        patients: of each row; the penalty, one of five, has the least error on patients left out. With a single patient
            it is the largest.

    Returns:
        The regression.

    Raises:
        ValueError: if a feature is not finite.

    Example:
        >>> features = np.arange(12.0)[:, None]
        >>> ridge = fit_ridge(features, 2 * features + 1, [str(number) for number in range(12)])
        >>> int(ridge.predict(np.array([[20.0]]))[0, 0].round()), ridge.penalty
        (41, 0.01)
    """
    centre, scale, scaled = _scaled(features)
    values, vectors = np.linalg.eigh(_kernel(scaled, scaled))
    groups = _groups(patients)
    penalty, left_out = _PENALTIES[-1], np.full(targets.shape, np.nan)
    if len(groups) > 1:
        residuals = [_residuals_left_out(values / (values + each), vectors, targets, groups) for each in _PENALTIES]
        best = int(np.argmin([_errors(each, groups).mean() for each in residuals]))
        penalty, left_out = _PENALTIES[best], targets - residuals[best]
    coefficients = (vectors / (values + penalty)) @ (vectors.T @ targets)
    return Ridge(centre, scale, scaled, coefficients, penalty, left_out)


def ridge_errors(features: np.ndarray, targets: np.ndarray, patients: Sequence[str]) -> np.ndarray:
    r"""Return each patient's mean squared error of a ridge regression that was fitted without that patient.

    In closed form: with the hat matrix :math:`H = K (K + \lambda I)^{-1}` of the kernel K, the residuals of a group g
    that is left out are :math:`(I - H_{gg})^{-1} (y - H y)_g`. The penalty of the least mean error is taken, from five.

    Args:
        features: (K, F); each is scaled to unit variance here.
        targets: (K, C); the error is the mean over C.
        patients: of each row.

    Returns:
        (N,), by patient in sorted order.

    Raises:
        ValueError: if a feature is not finite.
    """
    _, _, scaled = _scaled(features)
    values, vectors = np.linalg.eigh(_kernel(scaled, scaled))
    groups = _groups(patients)
    residuals = (_residuals_left_out(values / (values + each), vectors, targets, groups) for each in _PENALTIES)
    return min((_errors(each, groups) for each in residuals), key=lambda each: float(each.mean()))


def _scaled(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean and deviation of each feature, 0 where it does not vary, and the features that vary, scaled."""
    if not np.isfinite(features).all():
        raise ValueError("the features of the encoder are not finite; check the weights, or run in fp32")
    centre = features.mean(axis=0, dtype=np.float64)
    centred = features.astype(np.float64) - centre
    scale = centred.std(axis=0)
    scale = np.where(scale > 1e-9 * max(1.0, float(np.abs(features).max())), scale, 0.0)
    return centre, scale, centred[:, scale > 0] / scale[scale > 0]


def _kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    kernel: np.ndarray = first @ second.T / max(1, first.shape[1]) + _INTERCEPT
    return kernel


def _groups(patients: Sequence[str]) -> list[np.ndarray]:
    order = sorted(range(len(patients)), key=patients.__getitem__)
    return [np.array(list(items)) for _, items in groupby(order, key=patients.__getitem__)]


def _residuals_left_out(
    shrinkage: np.ndarray, vectors: np.ndarray, targets: np.ndarray, groups: Sequence[np.ndarray]
) -> np.ndarray:
    """Return the residual of each row, (K, C), by the regression without its group."""
    hat = (vectors * shrinkage) @ vectors.T  # (K, K)
    residuals = targets - hat @ targets  # (K, C)
    left_out = np.empty(residuals.shape)
    for size in {len(group) for group in groups}:  # groups of one size at once
        items = np.stack([group for group in groups if len(group) == size])  # (G, size)
        blocks = np.eye(size) - hat[items[:, :, None], items[:, None, :]]  # (G, size, size)
        left_out[items] = np.linalg.solve(blocks, residuals[items])
    return left_out


def _errors(residuals: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean squared residual of each group."""
    return np.array([(residuals[group] ** 2).mean() for group in groups])
