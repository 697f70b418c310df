# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The report repeats what ran, and names no file of the user's."""

from __future__ import annotations

import shlex
from pathlib import Path

from monai_essa.demo.run import REMARKS, commands
from monai_essa.demo.stages import DemoPlan


def test_the_commands_repeat_each_stage_into_another_folder(plan: DemoPlan) -> None:
    lines = commands(plan)
    parts = [shlex.split(line) for line in lines if line.startswith("python")]

    assert [Path(part[part.index("--args_file") + 1]).stem for part in parts] == [
        *("pretrain", "ssa", "with_ssa", "without_ssa", "from_nothing"),
        *("with_ssa_test", "without_ssa_test", "from_nothing_test"),
    ]
    again = [part[part.index("--output_dir") + 1] for part in parts[:5]]
    assert not {Path(folder) for folder in again} & {plan.output / stage.name for stage in plan.training()}


def test_the_folder_of_own_data_is_not_named(plan: DemoPlan) -> None:
    (whole,) = (shlex.split(line) for line in commands(plan) if line.startswith("monai-essa"))

    assert whole[:4] == ["monai-essa", "demo", "--data", "DIR"]
    assert whole[whole.index("--seed") + 1] == "3"


def test_the_remarks_say_what_the_numbers_are_not() -> None:
    assert "not which start is better" in REMARKS[-1]
