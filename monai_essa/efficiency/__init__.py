# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Training that costs less, and what it costs: lean training and the cost meter."""

from __future__ import annotations

from monai_essa.efficiency.cost_file import CostFile
from monai_essa.efficiency.lean import lean
from monai_essa.efficiency.recipe import use_recipe
from monai_essa.efficiency.step_cost import StepCost, fused_adamw, step_cost

__all__ = ["CostFile", "StepCost", "fused_adamw", "lean", "step_cost", "use_recipe"]
