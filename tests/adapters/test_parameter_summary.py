# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Counting what learns."""

from __future__ import annotations

from monai.networks.nets import UNETR, ViT

from monai_essa import adapt, summary
from monai_essa.adapters.summary import Summary
from monai_essa.methods import APLA, HeadOnly


def test_summary_counts_parts_and_file():
    net = adapt(UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2), APLA(), also_train=[r"out\..*"])
    counts = summary(net)
    assert counts.parts["encoder"][0] == 12 * (24 * 24 + 24)
    assert counts.parts["head"] == (10, 10) and counts.parts["decoder"][0] == 0
    assert counts.adapter_bytes == 4 * counts.trainable
    assert counts.total == sum(parameter.numel() for parameter in net.parameters())
    assert "adapter file: 0.03 MB" in counts.table()


def test_a_printed_summary_is_one_line_in_the_words_of_peft():
    counts = Summary({"encoder": (1_000, 7_000), "decoder": (0, 2_000), "head": (10, 10)}, adapter_bytes=4_040)
    assert str(counts) == "trainable params: 1,010 || all params: 9,010 || trainable%: 11.2098"


def test_the_table_has_a_line_for_each_part_that_there_is():
    counts = Summary({"encoder": (1_000, 7_000), "decoder": (0, 0), "head": (10, 10)}, adapter_bytes=4_040)
    assert [line.split() for line in counts.table().splitlines()] == [
        ["part", "trainable", "total", "share"],
        ["encoder", "1,000", "7,000", "14.29%"],
        ["head", "10", "10", "100.00%"],
        ["network", "1,010", "7,010", "14.41%"],
        ["adapter", "file:", "0.00", "MB"],
    ]


def test_head_only_with_no_pattern_trains_nothing():
    assert summary(adapt(ViT(1, 32, 16, 24, 48, 2, 4), HeadOnly())).trainable == 0
