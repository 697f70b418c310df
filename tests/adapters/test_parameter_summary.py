# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Counting what learns."""

from __future__ import annotations

from monai.networks.nets import UNETR, ViT

from monai_essa.adapters.adaptation import adapt
from monai_essa.adapters.summary import summary
from monai_essa.methods import APLA, HeadOnly


def test_summary_counts_parts_and_file():
    net = adapt(UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2), APLA(), also_train=[r"out\..*"])
    counts = summary(net)
    assert counts.parts["encoder"][0] == 12 * (24 * 24 + 24)
    assert counts.parts["head"] == (10, 10) and counts.parts["decoder"][0] == 0
    assert counts.adapter_bytes == 4 * counts.trainable
    assert counts.total == sum(parameter.numel() for parameter in net.parameters())
    assert "adapter file: 0.03 MB" in str(counts)


def test_head_only_with_no_pattern_trains_nothing():
    assert summary(adapt(ViT(1, 32, 16, 24, 48, 2, 4), HeadOnly())).trainable == 0
