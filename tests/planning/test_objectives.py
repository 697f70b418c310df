# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A plan with an objective: its overlay, the patients that a batch needs, and what is left out or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from monai_essa.planning.choices import Choice, Computer, recipe_choice
from monai_essa.planning.objectives import fitting_batch, least_batch, objective_values
from monai_essa.planning.run import Wishes, plan_run
from monai_essa.planning.site import site_facts

CARD = Computer(memory=16 * 10**9, source="test", device="cpu", ram=16 * 10**9, disk=10**9)
TINY: dict[str, Any] = {"hidden_size": 24, "mlp_dim": 48, "num_heads": 2, "num_layers": 1, "precision": "fp32"}


@pytest.fixture
def many(volumes: Path, tmp_path: Path) -> Path:
    """A list of twenty patients, of whom two are held out, with copies of one scan."""
    items = []
    for number in range(20):
        shutil.copy(volumes / "case0.nii.gz", tmp_path / f"p{number:02}.nii.gz")
        items.append({"image": f"p{number:02}.nii.gz", "patient": f"p{number:02}"})
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"unlabeled": items, "training": []}), encoding="utf-8")
    return path


@pytest.mark.parametrize(("objective", "values"), [("dinov2", {"prototypes": 16}), ("contrastive", {}), ("diet", {})])
def test_an_objective_of_views_is_planned_and_tried(
    objective: str, values: dict[str, Any], many: Path, tmp_path: Path
) -> None:
    own = TINY | values | {"img_size": [32, 32, 32]}
    wishes = Wishes(tmp_path / "my_site.yaml", 0.01, "ssa", None, None, None, own, objective)
    plan = plan_run(wishes, site_facts(many), CARD)
    names = [Path(choice.value).name for choice in plan.config_files]
    assert names == ["train.yaml", f"objective_{objective}.yaml", "method_full.yaml"]
    assert plan.values["batch_size"].value == 16 and "koleo" not in plan.values
    assert plan.values["max_epochs"].value >= 1 and plan.peak > 10**6


def test_a_batch_that_is_too_small_for_koleo_leaves_it_out_and_a_cnn_leaves_ibot_out() -> None:
    assert objective_values("dinov2", "vit", 4) == {} and objective_values("diet", "vit", 1) == {}
    left_out = objective_values("dinov2", "segresnet", 3)
    assert {key: choice.value for key, choice in left_out.items()} == {"koleo": 0.0, "ibot": 0.0}


def test_a_contrast_takes_no_fewer_patients_than_it_compares() -> None:
    chosen = recipe_choice(100, 30, lambda lean, batch: 10 * batch, "vit", least_batch=8)
    assert chosen["batch_size"].value == 8
    with pytest.raises(ValueError, match="at least 0.00 GB for vit with a batch of 8 and lean: small"):
        recipe_choice(70, 30, lambda lean, batch: 10 * batch, "vit", least_batch=8)
    with pytest.raises(ValueError, match="compares 8 patients in a batch, and there are 7 to learn from"):
        least_batch("contrastive", patients=7)
    with pytest.raises(ValueError, match="needs 16 to learn from, got 15; take --objective diet"):
        fitting_batch("contrastive", 8, patients=15)


@pytest.mark.parametrize(
    ("stage", "network", "objective", "message"),
    [
        ("segmentation", None, "dinov2", "--objective dinov2 is for self-supervision; give --stage ssa"),
        ("ssa", "swin_unetr", "mae", "--objective mae needs a ViT or UNETR, got swin_unetr"),
    ],
)
def test_an_objective_without_a_place_is_refused(
    stage: str, network: str | None, objective: str, message: str, volumes: Path, tmp_path: Path
) -> None:
    wishes = Wishes(tmp_path / "my_site.yaml", 0.01, stage, network, None, None, TINY, objective)
    with pytest.raises(ValueError, match=message):
        plan_run(wishes, site_facts(volumes / "dataset.json"), CARD)


def test_choices_say_why() -> None:
    assert objective_values("dinov2", "vit", 2)["koleo"] == Choice(
        0.0, "KoLeo spreads 4 patients or more, and a batch has 2"
    )
