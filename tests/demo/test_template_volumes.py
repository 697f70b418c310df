# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Template-derived volumes: the oracle is an anatomy of four boxes whose tissue shares are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from monai_essa.demo.cohort import SHAPE, Scanner, deform, load_template, scan, tissue_labels

PLAIN = Scanner((0.3, 0.6, 0.9), texture=0.0, blur=(0.0, 0.0, 0.0), bias=0.0, noise=0.0, scale=1000)


def _boxes() -> torch.Tensor:
    """CSF, gray and white matter in the second, third and last quarter of x; air in the first."""
    t1, gray, white, brain = torch.zeros(4, 16, 8, 8)
    brain[4:] = 1.0
    gray[8:12] = 1.0
    white[12:] = 1.0
    t1[4:8], t1[8:12], t1[12:] = 0.33, 0.64, 0.86
    return torch.stack([t1, gray, white, brain])


def _state(seed: int = 0) -> np.random.RandomState:
    return np.random.RandomState(seed)


def test_template_lies_inside_its_grid_with_a_margin() -> None:
    pytest.importorskip("nilearn", reason="the template comes with nilearn, extra [demo]")
    template = load_template()

    assert template.shape == (4, *SHAPE)
    brain = template[3] > 0.5
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        occupied = brain.any(dim=others[1]).any(dim=others[0]).nonzero()
        assert occupied.min() >= 2
        assert occupied.max() <= SHAPE[axis] - 3
    gray, white = (template[1] > 0.5).sum(), (template[2] > 0.5).sum()
    assert gray > white > 5000


def test_labels_are_the_tissue_with_the_largest_share() -> None:
    labels = tissue_labels(_boxes())

    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels[:, 0, 0], [0] * 8 + [1] * 4 + [2] * 4)


def test_a_plain_scanner_shows_the_tissue_means_within_the_jitter() -> None:
    image = scan(_boxes(), PLAIN, _state())

    assert image.dtype == np.int16
    for start, mean in zip((0, 4, 8, 12), (0, 300, 600, 900), strict=True):
        np.testing.assert_allclose(image[start + 1 : start + 3], mean, rtol=0.05)


def test_noise_is_rician_so_that_air_has_the_rayleigh_mean() -> None:
    air = torch.zeros(4, 24, 24, 24)
    image = scan(air, dataclasses.replace(PLAIN, noise=0.1), _state())

    assert image.min() >= 0
    assert image.mean() == pytest.approx(100 * np.sqrt(np.pi / 2), rel=0.02)


def test_bias_changes_one_tissue_smoothly() -> None:
    flat = torch.ones(4, 16, 16, 16)
    flat[1] = 0.0
    field = np.log(scan(flat, dataclasses.replace(PLAIN, bias=0.2), _state()).astype(float))

    assert field.std() > 0.05
    assert np.diff(field, axis=0).std() < 0.5 * field.std()


def test_blur_acts_along_its_axis_only() -> None:
    sharp = scan(_boxes(), PLAIN, _state())
    along_z = scan(_boxes(), dataclasses.replace(PLAIN, blur=(0.0, 0.0, 4.0)), _state())
    along_x = scan(_boxes(), dataclasses.replace(PLAIN, blur=(4.0, 0.0, 0.0)), _state())

    np.testing.assert_array_equal(along_z[:, :, 4], sharp[:, :, 4])
    assert np.abs(along_x.astype(int) - sharp)[:, :, 4].max() > 50


def test_deforming_moves_tissue_and_keeps_shares_valid() -> None:
    anatomy = _boxes()
    moved = deform(anatomy, _state())

    assert moved.shape == anatomy.shape
    assert 0.0 <= moved.min() and moved[1:].max() <= 1.0 + 1e-5
    assert (tissue_labels(moved) != tissue_labels(anatomy)).mean() > 0.02


def test_one_state_gives_one_anatomy_and_one_image() -> None:
    scanner = dataclasses.replace(PLAIN, bias=0.1, noise=0.05)
    first, second = (scan(deform(_boxes(), state), scanner, state) for state in (_state(3), _state(3)))

    np.testing.assert_array_equal(first, second)
    assert (scan(deform(_boxes(), _state(4)), scanner, _state(4)) != first).any()
