# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from monai_essa.label.adapter_store import AdapterStore
from monai_essa.label.labelled_stage import LabelledStage
from monai_essa.label.site_training import SiteTraining
from monai_essa.label.unlabelled_stage import UnlabelledStage

PAGE = Path(__file__).resolve().parents[2] / "docs" / "label.md"


class Written:
    """A stage that writes what the request says in place of training."""

    description = "writes"
    options: Mapping[str, Any] = {"text": ""}

    def train(self, request: Mapping[str, Any], datastore: Any, run: Path) -> dict[str, Any]:
        run.mkdir(parents=True)
        (run / "adapter.safetensors").write_text(request["text"], encoding="utf-8")
        return {key: request[key] for key in ("stage", "dice") if key in request}


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
    for number, text in enumerate(("one", "two"), start=1):
        result = task({"adapter": "site", "text": text}, None)
        assert (result["adapter"], result["version"], result["seconds"]) == ("site", number, 0)
    assert task({"text": "three"}, None)["adapter"] == "default"
    assert task.adapters.file("site", 2).read_text() == "two"
    assert sorted(path.name for path in (task.runs / "site").iterdir()) == ["001", "002"]
    assert task({"adapter": "site", "undo": True}, None) == {"adapter": "site", "version": 1}
    assert [entry["version"] for entry in task.stats()["adapters"]["site"]] == [1]


def test_a_viewer_is_shown_the_dice_of_the_last_adapter(task: SiteTraining) -> None:
    assert task.stats() == {"best_metric": 0, "adapters": {}}
    for site, dice in (("a", 0.4), ("b", 0.6), ("b", 0.5)):
        task({"adapter": site, "dice": dice, "text": ""}, None)
    task({"adapter": "a", "stage": "ssa", "text": ""}, None)
    assert task.stats()["best_metric"] == 0.5
    assert [entry.get("stage") for entry in task.stats()["adapters"]["a"]] == [None, "ssa"]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"adapter": "base"}, "expected another name"),
        ({"adapter": "latest"}, "expected another name"),
        ({"adapter": "../x"}, "expected a name of letters"),
        ({"adapter": "site", "undo": True}, "nothing to undo"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_runs(
    task: SiteTraining, request_: dict[str, object], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        task(request_, None)
    assert not task.runs.exists()
