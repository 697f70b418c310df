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

"""Adapt pretrained MONAI networks to unlabelled scans and few labels by training a few tensors only."""

from __future__ import annotations

from monai_essa.adaptation import adapt, disable_adapter, merge
from monai_essa.adapter_file import load_adapter, save_adapter
from monai_essa.parameter_summary import summary
from monai_essa.version import __version__
from monai_essa.weights import load_weights

__all__ = [
    "__version__",
    "adapt",
    "disable_adapter",
    "load_adapter",
    "load_weights",
    "merge",
    "save_adapter",
    "summary",
]
