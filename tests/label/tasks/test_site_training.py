# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from monai_essa.label.requests import PlainValue
from monai_essa.label.store import AdapterStore
from monai_essa.label.tasks.processes import one_training
from monai_essa.label.tasks.ssa import UnlabelledStage
from monai_essa.label.tasks.training import LabelledStage, SiteTraining
from monai_essa.outside import Check, Choice, Flag, Number

PAGE = Path(__file__).resolve().parents[3] / "docs" / "label.md"


class Written:
    """A stage that writes what the request says in place of training."""

    description = "writes"
    options: Mapping[str, Any] = {"value": 0.0}
    checks: Mapping[str, Check] = {
        "value": Number(),
        "dice": Number(0, 1),
        "stage": Choice(["ssa"]),
        "held_out": PlainValue(),
        "promoted": Flag(),
    }

    def train(self, request: Mapping[str, Any], datastore: Any, run: Path) -> dict[str, Any]:
        run.mkdir(parents=True)
        tensors = {"network:out": np.array([request.get("value", 0.0)])}
        save_file(tensors, run / "adapter.safetensors", metadata={"monai_essa": "{}"})
        return {key: request[key] for key in ("stage", "dice", "held_out", "promoted") if key in request}


@pytest.fixture
def task(tmp_path: Path) -> SiteTraining:
    return SiteTraining(Written(), tmp_path / "runs", AdapterStore(tmp_path / "adapters"))


def test_the_page_says_what_a_training_may_be_told(task: SiteTraining) -> None:
    rows = PAGE.read_text(encoding="utf-8").partition("| `train` option |")[2].partition("\n\n")[0].splitlines()[2:]
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row.partition("|")[2].partition("|")[0])}
    both = {"device", *LabelledStage.options, *UnlabelledStage.options, *task.config()} - set(Written.options)
    assert told | {"device"} == both
    for stage, column in ((LabelledStage, 2), (UnlabelledStage, 3)):
        for row in rows:
            names, default = re.findall(r"`(\w+)`", row.split("|")[1]), row.split("|")[column].strip()
            wanted = [stage.options[name] for name in names if name in stage.options]
            assert not wanted or default.lower() == ", ".join(map(str, wanted)).lower()


def test_every_training_is_a_version_of_its_site(task: SiteTraining) -> None:
    for number in (1, 2):
        result = task({"adapter": "site", "value": number}, None)
        assert (result["adapter"], result["version"], result["seconds"]) == ("site", number, 0)
    assert task({"value": 3}, None)["adapter"] == "default"
    assert load_file(task.adapters.file("site", 2))["network:out"] == 2
    assert sorted(path.name for path in (task.runs / "site").iterdir()) == ["001", "002"]
    assert task({"adapter": "site", "undo": True}, None) == {"adapter": "site", "version": 1}
    assert [entry["version"] for entry in task.stats()["adapters"]["site"]] == [1]


def test_a_viewer_is_shown_the_dice_of_the_last_adapter(task: SiteTraining) -> None:
    assert task.stats() == {"best_metric": 0, "adapters": {}, "problems": []}
    for site, dice in (("a", 0.4), ("b", 0.6), ("b", 0.5)):
        task({"adapter": site, "dice": dice}, None)
    task({"adapter": "a", "stage": "ssa"}, None)
    assert task.stats()["best_metric"] == 0.5
    assert [entry.get("stage") for entry in task.stats()["adapters"]["a"]] == [None, "ssa"]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"adapter": "base"}, "expected another name"),
        ({"adapter": "latest"}, "expected another name"),
        ({"adapter": "../x"}, "field 'adapter'"),
        ({"adapter": "site", "text": "x"}, "unknown field 'text'"),
        ({"adapter": "site", "device": "$exit(1)"}, "field 'device'"),
        ({"adapter": "site", "undo": True}, "nothing to undo"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_runs(
    task: SiteTraining, request_: dict[str, object], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        task(request_, None)
    assert not task.runs.exists()


def test_a_training_that_made_things_worse_is_kept_and_not_used(
    task: SiteTraining, caplog: pytest.LogCaptureFixture
) -> None:
    task({"adapter": "site", "value": 1, "dice": 0.8}, None)
    held_out = {"volumes": 2, "dice": 0.5, "before": 0.8}
    result = task({"adapter": "site", "value": 2, "dice": 0.5, "promoted": False, "held_out": held_out}, None)
    assert (result["version"], result["promoted"]) == (2, False)
    assert task.adapters.current("site") == task.adapters.file("site", 1)
    assert "version 2 is kept but not used: its Dice on 2 held-out volumes is 0.5000" in caplog.text
    assert task.stats()["best_metric"] == 0.8
    assert [entry.get("promoted", True) for entry in task.stats()["adapters"]["site"]] == [True, False]


def test_two_processes_do_not_train_one_bundle(task: SiteTraining) -> None:
    with one_training(task.runs), pytest.raises(RuntimeError, match="a training is running already, in process"):
        task({"adapter": "site"}, None)
    assert task({"adapter": "site"}, None)["version"] == 1


def test_what_is_damaged_is_said(task: SiteTraining) -> None:
    for _ in range(2):
        task({"adapter": "site"}, None)
    task.adapters.file("site", 2).unlink()
    (task.adapters.folder / "site" / "history.json").write_text("")
    stats = task.stats()
    assert [entry.get("damaged", False) for entry in stats["adapters"]["site"]] == [False, True]
    assert len(stats["problems"]) == 2
