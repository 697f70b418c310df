# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Folding LayerScale."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from monai_essa.anatomy.key_maps import KeyMap
from monai_essa.weights.layout import fold_scales

SCALED = KeyMap("scaled", folds=((r"blocks\.(\d+)\.ls2\.gamma", r"blocks.\1.mlp.linear2"),))


def test_the_scaled_layer_computes_the_layer_and_then_the_scale() -> None:
    weight, bias, gamma, x = torch.randn(5, 7), torch.randn(5), torch.randn(5), torch.randn(3, 7)
    layer = "blocks.1.mlp.linear2"
    folded = fold_scales(
        {f"{layer}.weight": weight, "blocks.1.ls2.gamma": gamma, f"{layer}.bias": bias}, SCALED
    ).tensors
    assert folded.keys() == {f"{layer}.weight", f"{layer}.bias"}
    torch.testing.assert_close(
        F.linear(x, folded[f"{layer}.weight"], folded[f"{layer}.bias"]), gamma * F.linear(x, weight, bias)
    )


def test_other_tensors_are_shared_and_a_scale_without_its_layer_stays() -> None:
    tensors = {"norm.weight": torch.ones(5), "blocks.1.ls2.gamma": torch.ones(5)}
    folded = fold_scales(tensors, SCALED).tensors
    assert folded.keys() == tensors.keys()
    assert folded["norm.weight"] is tensors["norm.weight"]
