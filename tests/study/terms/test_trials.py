# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The rate of an arm is the best of its trials, whatever the order and number of calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from monai_essa.planning.study_plan import PlannedStage, StudyPlan, read_plan, write_plan
from monai_essa.study.terms.trials import set_rates, tried_rates

RATES = (0.001, 0.003, 0.009)


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., Path]:
    """Writes a study whose trials of an arm have planted mean Dice, None for one that failed."""

    def make(scores: Sequence[float | None]) -> Path:
        stages = []
        for number, (score, rate) in enumerate(zip(scores, RATES, strict=True), 1):
            name = f"0{number}-r1f1-no-ssa-rate-{number}"
            stages.append(PlannedStage(name, "trial", "no_ssa", 1, 1, name, (), 1.0))
            stages.append(PlannedStage(f"{name}-score", "trial_test", "no_ssa", 1, 1, name, (name,), 1.0))
            _write(tmp_path / "stages" / f"{name}.yaml", f"# a trial\nlr: {rate}\nbatch_size: 2\n")
            if score is not None:
                _write(tmp_path / "stages" / f"{name}-score.done", '{"seconds": 1.0}')
                _write(tmp_path / "runs" / name / "run.json", json.dumps({"status": "finished", "seed": 1}))
                rows = [
                    f"/s/{case}.nii.gz,{score + shift},{score + shift}" for case, shift in (("a", -0.1), ("b", 0.1))
                ]
                _write(
                    tmp_path / "runs" / name / "test" / "dice_raw.csv", "\n".join(["filename,class0,mean", *rows, ""])
                )
        for arm in ("no_ssa", "no_ssa_longer", "full"):
            for kind in ("train", "test"):
                name = f"r1f1-{arm}-{kind}".replace("_", "-")
                stages.append(PlannedStage(name, kind, arm, 1, 1, name, (), 1.0))
                _write(tmp_path / "stages" / f"{name}.yaml", "# PEFT\nlr: 0.003\nbatch_size: 2\n")
        write_plan(StudyPlan({}, {}, [], [], stages, {}), tmp_path)
        return tmp_path

    return make


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def rate(folder: Path, name: str) -> float:
    return float(yaml.safe_load((folder / "stages" / f"{name}.yaml").read_text(encoding="utf-8"))["lr"])


@pytest.mark.parametrize(
    ("scores", "best"),
    [((0.6, 0.7, 0.8), 2), ((0.8, 0.7, 0.6), 0), ((0.7, 0.7, 0.7), 1), ((None, 0.5, 0.4), 1), ((None, None, None), 1)],
)
def test_the_best_mean_is_taken_and_the_default_where_nothing_speaks_against_it(
    scores: tuple[float | None, ...], best: int, study: Callable[..., Path]
) -> None:
    folder = study(scores)
    found = tried_rates(folder, read_plan(folder).stages)
    assert found["no_ssa"].best == best == found["no_ssa_longer"].best and "full" not in found
    assert found["no_ssa"].scores == tuple(None if score is None else pytest.approx(score) for score in scores)
    for _ in range(2):
        set_rates(folder)
        for name in ("no-ssa-train", "no-ssa-test", "no-ssa-longer-train"):
            assert rate(folder, f"r1f1-{name}") == RATES[best]
        assert rate(folder, "r1f1-full-train") == 0.003
    text = (folder / "stages" / "r1f1-no-ssa-train.yaml").read_text(encoding="utf-8")
    assert text.startswith("# PEFT\n") and text.endswith("batch_size: 2\n")
