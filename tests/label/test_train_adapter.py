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


from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from monai_essa.label.adapter_store import AdapterStore
from monai_essa.label.studies_folder import StudiesFolder
from monai_essa.label.train_adapter import TrainAdapter

PAGE = Path(__file__).resolve().parents[2] / "docs" / "label.md"


@pytest.fixture
def task(bundle: Path) -> TrainAdapter:
    return TrainAdapter(bundle, AdapterStore(bundle / "adapters"))


@pytest.fixture
def datastore(studies: Path, truth: Path) -> StudiesFolder:
    """Two labelled volumes and four without."""
    final = studies / "labels" / "final"
    final.mkdir(parents=True)
    for name in ("case_00.nii.gz", "case_01.nii.gz"):
        shutil.copy(truth / name, final)
    return StudiesFolder(str(studies))


def largest_change(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    return max(float((two[name] - one[name]).abs().max()) for name in one if one[name].is_floating_point())


def test_the_page_says_what_a_training_may_be_told(task: TrainAdapter) -> None:
    table = PAGE.read_text(encoding="utf-8").partition("| `train` option |")[2].partition("\n\n")[0]
    rows = [line.partition("|")[2].partition("|")[0] for line in table.splitlines()[2:]]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} | {"device"} == set(task.config())


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"adapter": "base"}, "expected another name"),
        ({"adapter": "../x"}, "expected a name of letters"),
        ({"adapter": "site", "undo": True}, "nothing to undo"),
        ({"adapter": "site", "val_split": 1.0}, "val_split must be"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_runs(
    task: TrainAdapter, datastore: StudiesFolder, request_: dict[str, object], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        task(request_, datastore)
    assert not (task.bundle / "runs").exists()
    assert task.stats() == {}


@pytest.mark.slow
def test_a_training_goes_on_from_the_current_version(task: TrainAdapter, datastore: StudiesFolder) -> None:
    """One step of AdamW moves a weight by the learning rate at most, so a fresh start ends further away."""
    step = {"adapter": "site", "max_epochs": 1, "samples_per_epoch": 1, "device": "cpu"}
    first = task(step | {"max_epochs": 8, "samples_per_epoch": 8, "val_split": 0}, datastore)
    again = task(step, datastore)
    assert (first["version"], again["version"], again["labels"]) == (1, 2, 2)
    assert first["dice"] is not None
    task.adapters.undo("site")
    fresh = task(step | {"pretrained": False}, datastore)
    one, two, three = (load_file(task.adapters.folder / "site" / f"{number:03d}.safetensors") for number in (1, 2, 3))
    assert fresh["version"] == 3
    assert 0 < largest_change(one, two) < 1.1e-3 < largest_change(one, three)
