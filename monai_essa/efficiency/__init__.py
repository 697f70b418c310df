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

"""Training that costs less, and what it costs: lean training and the cost meter."""

from __future__ import annotations

from monai_essa.efficiency.cost_file import CostFile
from monai_essa.efficiency.lean import lean
from monai_essa.efficiency.recipe import use_recipe
from monai_essa.efficiency.step_cost import StepCost, fused_adamw, step_cost

__all__ = ["CostFile", "StepCost", "fused_adamw", "lean", "step_cost", "use_recipe"]
