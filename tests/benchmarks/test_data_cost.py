# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the cost of a sample."""

from __future__ import annotations

import pytest

from benchmarks.data_cost import sample_seconds


@pytest.mark.parametrize("bundle", ["essa_ssa", "essa_segmentation", "essa_classification"])
def test_each_pipeline_runs_on_the_synthetic_scan(bundle: str) -> None:
    cost = sample_seconds(bundle, side=40, crop=32, samples=1)
    assert min(cost.raw, cost.cached, cost.mapped, cost.filling) > 0
    # float32 voxels after resampling to 1 mm, cropped to the foreground for ssa and to the patch for classification.
    voxels = {"essa_ssa": 32**3 + 32**3 // 4, "essa_segmentation": 2 * 36 * 36 * 32, "essa_classification": 32**3}
    assert 4 * voxels[bundle] <= cost.volume_bytes < 9 * voxels[bundle]


def test_an_unknown_bundle_is_refused() -> None:
    with pytest.raises(ValueError, match="no bundle is named 'essa_sa'; did you mean essa_ssa"):
        sample_seconds("essa_sa")
