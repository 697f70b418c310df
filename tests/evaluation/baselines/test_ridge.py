# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The ridge regression is the textbook's, and the classifier made of it learns from training images alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_essa.evaluation.baselines.classifier import RidgeClassifier
from monai_essa.evaluation.baselines.ridge import fit_ridge, ridge_errors


def flat(crops: Sequence[Tensor]) -> np.ndarray:
    return torch.stack([torch.as_tensor(crop) for crop in crops]).flatten(1).numpy()


def names(count: int) -> list[str]:
    return [f"p{number:02}" for number in range(count)]


@pytest.mark.parametrize("features", [3, 40])
def test_the_prediction_is_that_of_the_normal_equations(features: int) -> None:
    rng = np.random.default_rng(0)
    x, y, new = rng.normal(2.0, 3.0, (20, features)), rng.normal(size=(20, 2)), rng.normal(size=(5, features))
    ridge = fit_ridge(x, y, names(20))
    scaled, other = ((each - x.mean(axis=0)) / x.std(axis=0) for each in (x, new))
    penalty = ridge.penalty * features * np.eye(features)
    weights = np.linalg.solve(scaled.T @ scaled + penalty, scaled.T @ (y - y.mean(axis=0)))
    np.testing.assert_allclose(ridge.predict(new), y.mean(axis=0) + other @ weights, rtol=1e-2, atol=1e-2)


def test_the_penalty_has_the_least_error_on_patients_left_out() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 10))
    signal, noise = x @ rng.normal(size=(10, 1)), rng.normal(size=(30, 1))
    assert fit_ridge(x, signal, names(30)).penalty < fit_ridge(x, noise, names(30)).penalty
    assert ridge_errors(x, signal, names(30)).mean() < 0.01 * signal.var()


def test_a_feature_that_does_not_vary_plays_no_part() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=(12, 1))
    constant = np.concatenate([x, np.full((12, 1), 7.0)], axis=1)
    new = np.concatenate([x, rng.normal(size=(12, 1))], axis=1)
    np.testing.assert_allclose(fit_ridge(constant, y, names(12)).predict(new), fit_ridge(x, y, names(12)).predict(x))


def test_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="are not finite"):
        fit_ridge(np.array([[np.nan], [1.0]]), np.zeros((2, 1)), names(2))


def images(classes: Sequence[int], seed: int = 0) -> list[dict[str, object]]:
    rng = np.random.default_rng(seed)
    patterns = np.eye(4)[:, None, :, None].repeat(4, axis=3)  # a bright row for each class
    noise = 0.3 * rng.normal(size=(len(classes), 1, 4, 4))
    return [
        {"image": torch.as_tensor(patterns[number] + each).float(), "label": number}
        for number, each in zip(classes, noise, strict=True)
    ]


def test_classes_are_told_from_what_the_images_show() -> None:
    classifier = RidgeClassifier(flat, images([0, 1, 2] * 10), num_classes=3)
    test = images([0, 1, 2] * 5, seed=1)
    predicted = classifier(torch.stack([item["image"] for item in test])).softmax(dim=1)  # type: ignore[misc]
    torch.testing.assert_close(predicted.sum(dim=1), torch.ones(15))
    assert predicted.argmax(dim=1).tolist() == [item["label"] for item in test]


def test_several_classes_of_an_image_are_predicted_each_by_itself() -> None:
    items = [{"image": torch.tensor([[[float(a), float(b)]]]), "label": [a, b]} for a in (0, 1) for b in (0, 1)] * 4
    predicted = RidgeClassifier(flat, items, num_classes=2, multi_label=True)(items[3]["image"][None]).sigmoid()  # type: ignore[index]
    assert (predicted > 0.9).all()


def test_noise_is_predicted_by_the_share_of_the_classes() -> None:
    rng = np.random.default_rng(3)
    items = [
        {"image": torch.as_tensor(rng.normal(size=(1, 8, 8))).float(), "label": int(n % 4 == 0)} for n in range(80)
    ]
    predicted = RidgeClassifier(flat, items, num_classes=2)(torch.zeros(1, 1, 8, 8)).softmax(dim=1)
    assert predicted[0].tolist() == pytest.approx([0.75, 0.25], abs=0.05)


def test_images_of_one_patient_leave_together() -> None:
    """Two images of each patient are alike: left out one by one, the other one would give the answer away."""
    rng = np.random.default_rng(4)
    voxels = rng.normal(size=(20, 1, 6, 6)).repeat(2, axis=0) + 1e-3 * rng.normal(size=(40, 1, 6, 6))
    labels = rng.integers(2, size=20).repeat(2)
    paths = [f"/scans/p{number // 2}_{'LR'[number % 2]}.nii.gz" for number in range(40)]
    items = [
        {"image": MetaTensor(torch.as_tensor(image), meta={"filename_or_obj": path}), "label": int(label)}
        for image, path, label in zip(voxels, paths, labels, strict=True)
    ]
    together = RidgeClassifier(flat, items, num_classes=2)
    apart = RidgeClassifier(flat, items, num_classes=2, patients=dict(zip(paths, paths, strict=True)))
    assert together.ridge.penalty > apart.ridge.penalty


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_images_give_a_prediction(count: int) -> None:
    predicted = RidgeClassifier(flat, images([0, 1][:count]), num_classes=2)(torch.zeros(1, 1, 4, 4))
    assert predicted.shape == (1, 2) and torch.isfinite(predicted).all()
    with pytest.raises(ValueError, match="expected training images for the ridge regression, got none"):
        RidgeClassifier(flat, [], num_classes=2)
