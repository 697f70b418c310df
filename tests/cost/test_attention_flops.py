# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Attention costs the same operations on the CPU's kernel as written out."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from monai_essa.cost.meter import flop_counter


def test_the_cpu_kernel_counts_as_attention_written_out():
    query, key, value = (torch.rand(2, 3, 40, 16, requires_grad=True) for _ in range(3))
    with flop_counter() as fused:
        F.scaled_dot_product_attention(query, key, value)
    with flop_counter() as plain:
        torch.softmax(query @ key.transpose(-1, -2) * 0.25, -1) @ value
    assert fused.get_total_flops() == plain.get_total_flops() == 2 * 2 * 2 * 3 * 40 * 40 * 16


def test_its_backward_pass_computes_the_scores_again():
    query = torch.rand(1, 2, 32, 8, requires_grad=True)
    product = 2 * 2 * 32 * 32 * 8
    with flop_counter() as counter:
        F.scaled_dot_product_attention(query, query, query).sum().backward()
    assert counter.get_total_flops() == 2 * product + 5 * product  # scores, and the gradients of both products
