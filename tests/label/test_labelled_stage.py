# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from monai_essa.label.adapter_store import AdapterStore
from monai_essa.label.labelled_stage import LabelledStage
from monai_essa.label.site_training import SiteTraining
from monai_essa.label.studies_folder import StudiesFolder


@pytest.fixture
def task(bundle: Path) -> SiteTraining:
    adapters = AdapterStore(bundle / "adapters")
    return SiteTraining(LabelledStage(bundle, adapters), bundle / "runs", adapters)


def largest_change(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    return max(float((two[name] - one[name]).abs().max()) for name in one if one[name].is_floating_point())


def test_no_label_and_a_wrong_share_are_refused(task: SiteTraining, studies: Path, datastore: StudiesFolder) -> None:
    with pytest.raises(ValueError, match="val_split must be"):
        task({"adapter": "site", "val_split": 1.0}, datastore)
    for label in (studies / "labels" / "final").iterdir():
        label.unlink()
    with pytest.raises(ValueError, match="no labels"):
        task({"adapter": "site"}, StudiesFolder(str(studies)))
    assert task.adapters.sites() == []


@pytest.mark.slow
def test_a_training_goes_on_from_the_newest_version(task: SiteTraining, datastore: StudiesFolder) -> None:
    """One step of AdamW moves a weight by the learning rate at most, so a fresh start ends further away."""
    step = {"adapter": "site", "max_epochs": 1, "samples_per_epoch": 1, "device": "cpu"}
    first = task(step | {"max_epochs": 8, "samples_per_epoch": 8, "val_split": 0}, datastore)
    again = task(step, datastore)
    assert (first["version"], again["version"], again["labels"]) == (1, 2, 2)
    assert first["dice"] is not None
    task.adapters.undo("site")
    fresh = task(step | {"pretrained": False}, datastore)
    one, two, three = (load_file(task.adapters.file("site", number)) for number in (1, 2, 3))
    assert fresh["version"] == 3
    assert 0 < largest_change(one, two) < 1.1e-3 < largest_change(one, three)
