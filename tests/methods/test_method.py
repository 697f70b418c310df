# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The adapter-layer protocol."""

from __future__ import annotations

import torch
import torch.nn as nn

from monai_essa.anatomy.blocks import Rows
from monai_essa.methods.apla import APLALinear
from monai_essa.methods.lora import LoRALinear
from monai_essa.methods.method import AdapterLayer


def test_adapter_layers_are_told_from_plain_ones():
    linear = nn.Linear(4, 4)
    assert isinstance(APLALinear(linear, torch.tensor([0])), AdapterLayer)
    assert isinstance(LoRALinear(linear, {"all": Rows("x", 0, 4)}, 2, 2), AdapterLayer)
    assert not isinstance(linear, AdapterLayer)


def test_plain_shares_and_merged_copies():
    linear = nn.Linear(4, 4)
    for layer in (APLALinear(linear, torch.tensor([0])), LoRALinear(linear, {"all": Rows("x", 0, 4)}, 2, 2)):
        assert layer.plain().weight is linear.weight and layer.plain().bias is linear.bias
        assert layer.merged().weight.data_ptr() != linear.weight.data_ptr()
        assert layer.merged().bias.data_ptr() != linear.bias.data_ptr()
