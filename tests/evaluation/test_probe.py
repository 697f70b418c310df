# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The probe tells informed features from random ones, does not cry wolf, and decides nothing on few patients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.networks.nets import SegResNet, ViT
from sklearn.linear_model import Ridge

from monai_essa.evaluation.baselines.ridge import ridge_errors
from monai_essa.evaluation.probe import pooled_features, probe_features, raw_features, same_place_found

PATIENTS = [f"p{number:02}" for number in range(24)]


def scans(rng: np.random.Generator, signal: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Latent facts (24, 40) of scans, one of which shows in the two columns of the label."""
    latent = rng.normal(size=(len(PATIENTS), 40))
    positive = signal * latent[:, 0] + 0.2 * rng.normal(size=len(PATIENTS)) > 0
    return latent, np.eye(2)[positive.astype(int)]


def random_network(rng: np.random.Generator, latent: np.ndarray) -> np.ndarray:
    return np.maximum(latent @ rng.normal(size=(40, 16)) / np.sqrt(40) + 0.5 * rng.normal(size=16), 0)


def one_probe(seed: int, informed: bool) -> str:
    rng = np.random.default_rng(seed)
    latent, labels = scans(rng)
    networks = [random_network(rng, latent) for _ in range(6)]
    pretrained = latent[:, :2] if informed else networks.pop()
    return probe_features(pretrained, networks[:5], latent, labels, PATIENTS).word


@pytest.mark.parametrize(
    "repetitions",
    [120, pytest.param(2000, marks=[pytest.mark.full, pytest.mark.slow(reason="2,000 repetitions of 7 regressions")])],
)
def test_one_more_random_network_is_rarely_called_different(repetitions: int) -> None:
    words = [one_probe(seed, informed=False) for seed in range(repetitions)]
    assert words.count("no difference shown") >= (1 - 0.065) * repetitions


def test_features_that_know_the_label_are_called_alive() -> None:
    assert [one_probe(seed, informed=True) for seed in range(20)].count("alive") >= 16


def test_features_that_lost_the_label_are_called_worse() -> None:
    rng = np.random.default_rng(0)
    latent, labels = scans(rng, signal=5.0)
    networks = [latent[:, :1] + 0.05 * rng.normal(size=(24, 4)) for _ in range(3)]
    assert probe_features(rng.normal(size=(24, 4)), networks, latent, labels, PATIENTS).word == "worse than random"


def test_nineteen_patients_decide_nothing() -> None:
    rng = np.random.default_rng(0)
    latent, labels = scans(rng)
    patients = [*PATIENTS[:19], *PATIENTS[:5]]
    result = probe_features(latent, [latent] * 3, latent, labels, patients)
    assert result.word == "not decided"
    assert str(result) == "not decided: 19 patients, and a probe needs 20"


def test_a_label_that_never_varies_decides_nothing() -> None:
    latent, _ = scans(np.random.default_rng(0))
    assert probe_features(latent, [latent] * 3, latent, np.ones((24, 2)), PATIENTS).word == "not decided"


def test_two_random_networks_are_too_few() -> None:
    latent, labels = scans(np.random.default_rng(0))
    with pytest.raises(ValueError, match="at least 3 random networks, got 2"):
        probe_features(latent, [latent] * 2, latent, labels, PATIENTS)


def test_errors_are_those_of_refits_without_each_patient() -> None:
    """The oracle fits scikit-learn's ridge again without each patient, for each penalty, and takes the best."""
    rng = np.random.default_rng(1)
    features, targets = rng.normal(size=(30, 5)), rng.normal(size=(30, 2))
    patients = [f"p{number % 12:02}" for number in range(30)]
    unit = (features - features.mean(axis=0)) / features.std(axis=0)

    def refitted(penalty: float) -> np.ndarray:
        errors = []
        for patient in sorted(set(patients)):
            out = np.array([each == patient for each in patients])
            model = Ridge(alpha=penalty * unit.shape[1]).fit(unit[~out], targets[~out])
            errors.append(((model.predict(unit[out]) - targets[out]) ** 2).mean())
        return np.array(errors)

    best = min((refitted(penalty) for penalty in (0.01, 0.1, 1.0, 10.0, 100.0)), key=np.mean)
    assert np.allclose(ridge_errors(features, targets, patients), best, rtol=1e-2)  # the intercept has a slight penalty


def test_features_that_are_not_finite_are_refused() -> None:
    features = np.zeros((24, 2))
    features[3, 1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        ridge_errors(features, np.eye(24), PATIENTS)


def test_views_of_other_places_are_not_found() -> None:
    places = np.random.default_rng(0).normal(size=(6, 8))
    assert same_place_found(places, np.roll(places, 1, axis=0)) == 0.0


@pytest.mark.parametrize("dims", [2, 3])
def test_features_are_pooled_from_tokens_and_from_maps(dims: int) -> None:
    side = (16,) * dims
    vit = ViT(1, side, 8, hidden_size=24, mlp_dim=24, num_layers=1, num_heads=2, spatial_dims=dims).train()
    cnn = SegResNet(spatial_dims=dims, init_filters=8, blocks_down=(1, 1), blocks_up=(1,))
    crops = [torch.randn(1, *side) for _ in range(5)]

    assert pooled_features(vit, crops).shape == (5, 3 * 24)
    assert vit.training  # as it was
    deep = pooled_features(cnn, crops)
    assert deep.shape == (5, 3 * 16)
    with torch.no_grad():
        last = cnn.eval().encode(torch.stack(crops))[0].flatten(2)
    assert np.allclose(deep[:, :16], last.mean(dim=2).numpy(), atol=1e-5)
    assert np.allclose(deep[:, 16:32], last.amax(dim=2).numpy(), atol=1e-5)


def test_raw_voxels_are_averaged_to_a_thousand_at_most() -> None:
    assert raw_features([torch.ones(1, 64, 48)] * 2).shape == (2, 1024)
    assert raw_features([torch.ones(1, 20, 20, 8)] * 2).shape == (2, 800)
