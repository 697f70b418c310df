# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What training costs: the meter of one step, the table over methods, and the record of a run."""

from __future__ import annotations

from monai_essa.cost.meter import StepCost, fused_adamw, step_cost
from monai_essa.cost.record import CostFile, use_recipe

__all__ = ["CostFile", "StepCost", "fused_adamw", "step_cost", "use_recipe"]
