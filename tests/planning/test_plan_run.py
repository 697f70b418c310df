# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for a whole plan: who decides what, and wishes that contradict each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from monai_essa.planning.choices import Computer
from monai_essa.planning.run import Plan, Wishes, plan_run
from monai_essa.planning.site import site_facts

CARD = Computer(memory=16 * 10**9, source="test", device="cpu", ram=16 * 10**9, disk=10**9)
WIDTH: dict[str, Any] = {"hidden_size": 48, "mlp_dim": 96, "num_heads": 4, "precision": "fp32"}


@pytest.fixture
def wishes(tmp_path: Path) -> Wishes:
    return Wishes(tmp_path / "my_site.yaml", 0.01, None, None, None, None, WIDTH)


def planned(wishes: Wishes, volumes: Path) -> tuple[Plan, dict[str, Any], list[str]]:
    plan = plan_run(wishes, site_facts(volumes / "dataset.json"), CARD)
    values = {key: choice.value for key, choice in plan.values.items()}
    return plan, values, ["/".join(Path(choice.value).parts[-3::2]) for choice in plan.config_files]


def test_weights_bring_the_method_along(wishes: Wishes, volumes: Path, files) -> None:
    plan, values, configs = planned(replace(wishes, pretrained=files.base), volumes)
    assert configs == ["essa_ssa/train.yaml"]
    assert values["pretrained"] == str(files.base)
    assert (values["img_size"], values["batch_size"], values["cache_rate"]) == ([32, 32, 32], 2, 1.0)
    assert values["max_epochs"] >= 1
    assert 10**6 < plan.peak < 10**8
    assert all(choice.reason for choice in plan.values.values())


@pytest.mark.parametrize(("with_adapter", "start"), [(False, "encoder"), (True, "adapter")])
def test_segmentation_starts_where_the_user_says(
    wishes: Wishes, volumes: Path, files, with_adapter: bool, start: str
) -> None:
    adapter = files.adapters[0] if with_adapter else None
    wishes = replace(wishes, stage="segmentation", pretrained=files.base, adapter=adapter)
    _, values, configs = planned(replace(wishes, values=WIDTH | {"feature_size": 4, "batch_size": 1}), volumes)
    assert configs == ["essa_segmentation/train.yaml"]
    assert (values["start"], values.get("adapter")) == (start, str(adapter) if with_adapter else None)
    assert values["labels"] == {"background": 0, "ball": 1}


def test_values_of_the_user_win(wishes: Wishes, volumes: Path) -> None:
    own = WIDTH | {"batch_size": 1, "max_epochs": 3, "spacing": [2.0, 2.0, 2.0], "cache_rate": 0.5}
    plan, values, _ = planned(replace(wishes, values=own), volumes)
    assert {key: values[key] for key in own} == own
    assert [key for key, choice in plan.values.items() if choice.reason == "--args"] == list(own)
    assert plan.values["img_size"].reason.startswith("64 x 64 x 64 mm, 100%")


def test_the_peak_is_that_of_the_users_batch(wishes: Wishes, volumes: Path) -> None:
    one, two = (planned(replace(wishes, values=WIDTH | {"batch_size": size}), volumes)[0].peak for size in (1, 2))
    assert one < two


@pytest.mark.parametrize(
    "given", [{"adapter": Path("a")}, {"adapter": Path("a"), "pretrained": Path("b"), "stage": "ssa"}]
)
def test_an_adapter_belongs_to_weights_and_segmentation(wishes: Wishes, volumes: Path, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--adapter is for --stage segmentation and belongs to the weights"):
        planned(replace(wishes, **given), volumes)
