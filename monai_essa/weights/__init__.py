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

"""Load weights from files into MONAI networks, with a report of what became of every tensor."""

from __future__ import annotations

from monai_essa.weights.key_maps import KeyMap
from monai_essa.weights.loading import load_weights
from monai_essa.weights.weight_report import TensorEntry, WeightReport

__all__ = ["KeyMap", "TensorEntry", "WeightReport", "load_weights"]
