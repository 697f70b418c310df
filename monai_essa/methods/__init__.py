# Copyright (c) The monai_essa authors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Parameter-efficient methods: which tensors of a network learn."""

from __future__ import annotations

from monai_essa.methods.adaptformer import AdaptFormer
from monai_essa.methods.apla import APLA
from monai_essa.methods.baselines import FullTuning, HeadOnly
from monai_essa.methods.bitfit import BitFit
from monai_essa.methods.columns import choose_columns, read_columns, write_columns
from monai_essa.methods.component import ComponentTuning
from monai_essa.methods.lora import LoRA
from monai_essa.methods.method import AdaptationMethod, AdapterLayer, NotMergeable
from monai_essa.methods.norm_tuning import NormTuning
from monai_essa.methods.peft_library import PeftLibrary
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
