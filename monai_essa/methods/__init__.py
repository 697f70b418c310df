# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Parameter-efficient methods: which tensors of a network learn."""

from __future__ import annotations

from monai_essa.methods.adaptformer import AdaptFormer
from monai_essa.methods.apla import APLA
from monai_essa.methods.columns import choose_columns, read_columns, write_columns
from monai_essa.methods.lora import LoRA
from monai_essa.methods.method import AdaptationMethod, AdapterLayer, NotMergeable
from monai_essa.methods.peft_library import PeftLibrary
from monai_essa.methods.selective import BitFit, ComponentTuning, FullTuning, HeadOnly, NormTuning
from monai_essa.methods.ssf import SSF
from monai_essa.methods.vpt import VPT

__all__ = [
    "APLA",
    "AdaptFormer",
    "AdaptationMethod",
    "AdapterLayer",
    "BitFit",
    "ComponentTuning",
    "FullTuning",
    "HeadOnly",
    "LoRA",
    "NormTuning",
    "NotMergeable",
    "PeftLibrary",
    "SSF",
    "VPT",
    "choose_columns",
    "read_columns",
    "write_columns",
]
