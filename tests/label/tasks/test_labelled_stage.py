# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from monai_essa.label.store import AdapterStore
from monai_essa.label.studies import StudiesFolder
from monai_essa.label.tasks.training import LabelledStage, SiteTraining, volume_digests


@pytest.fixture
def task(bundle: Path) -> SiteTraining:
    adapters = AdapterStore(bundle / "adapters")
    return SiteTraining(LabelledStage(bundle, adapters), bundle / "runs", adapters)


def largest_change(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    return max(float((two[name] - one[name]).abs().max()) for name in one if one[name].is_floating_point())


def test_no_label_and_a_wrong_share_are_refused(task: SiteTraining, studies: Path, datastore: StudiesFolder) -> None:
    with pytest.raises(ValueError, match="field 'val_split'"):
        task({"adapter": "site", "val_split": 1.0}, datastore)
    for label in (studies / "labels" / "final").iterdir():
        label.unlink()
    with pytest.raises(ValueError, match="no labels"):
        task({"adapter": "site"}, StudiesFolder(str(studies)))
    assert task.adapters.sites() == []


@pytest.mark.slow  # trains three times
def test_a_training_goes_on_from_the_newest_version(task: SiteTraining, datastore: StudiesFolder) -> None:
    """One step of AdamW moves a weight by the learning rate at most, so a fresh start ends further away."""
    step = {"adapter": "site", "max_epochs": 1, "samples_per_epoch": 1, "device": "cpu"}
    first = task(step | {"max_epochs": 2, "samples_per_epoch": 8, "val_split": 0}, datastore)
    again = task(step, datastore)
    assert (first["version"], again["version"], again["labels"]) == (1, 2, 2)
    assert first["dice"] is not None
    task.adapters.undo("site")
    fresh = task(step | {"pretrained": False}, datastore)
    one, two, three = (load_file(task.adapters.file("site", number)) for number in (1, 2, 3))
    assert fresh["version"] == 3
    assert 0 < largest_change(one, two) < 1.1e-3 < largest_change(one, three)


@pytest.mark.slow  # trains three times, and measures each result on a volume
def test_a_version_that_is_worse_on_a_held_out_label_is_not_promoted(
    task: SiteTraining, datastore: StudiesFolder
) -> None:
    """A fresh start of one step is worse than a training of some epochs, on the volume that neither trained on."""
    values = {"adapter": "site", "max_epochs": 2, "samples_per_epoch": 24, "val_split": 0.5, "device": "cpu"}
    first = task(values, datastore)
    assert (first["promoted"], first["held_out"]["volumes"]) == (True, 1)
    assert first["held_out"]["dice"] > first["held_out"]["before"]  # than the bundle, which was in use
    worse = task(values | {"max_epochs": 1, "samples_per_epoch": 1, "pretrained": False}, datastore)
    assert (worse["version"], worse["promoted"]) == (2, False)
    assert worse["held_out"]["dice"] < worse["held_out"]["before"] == first["held_out"]["dice"]
    assert task.adapters.current("site") == task.adapters.file("site", 1)
    assert task.adapters.file("site", 2).is_file()

    # A version that trained on the volume is no measure for one that did not.
    seen = volume_digests([{"image": datastore.get_image_uri(image)} for image in ("case_00", "case_01")])
    task.adapters.add("site", task.adapters.file("site", 1), {"labels": 2, "trained_on": seen})
    assert "held_out" not in task(values | {"max_epochs": 1, "samples_per_epoch": 1, "pretrained": False}, datastore)
