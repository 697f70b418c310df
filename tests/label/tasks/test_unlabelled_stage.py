# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from monai_essa.label.store import AdapterStore
from monai_essa.label.studies import StudiesFolder
from monai_essa.label.tasks.ssa import UnlabelledStage
from monai_essa.label.tasks.training import LabelledStage, SiteTraining

STEP = {"adapter": "site", "max_epochs": 1, "samples_per_epoch": 1, "device": "cpu"}


@pytest.fixture
def store(bundle: Path) -> AdapterStore:
    return AdapterStore(bundle / "adapters")


@pytest.fixture
def ssa(bundle: Path, store: AdapterStore) -> SiteTraining:
    return SiteTraining(UnlabelledStage(bundle), bundle / "runs", store)


def test_fewer_than_two_volumes_are_refused(ssa: SiteTraining, studies: Path) -> None:
    for path in sorted(studies.iterdir())[1:]:
        path.unlink()
    with pytest.raises(ValueError, match="expected 2 or more, there are 1"):
        ssa({}, StudiesFolder(str(studies)))
    assert not list(ssa.runs.glob("*/*"))


@pytest.mark.slow  # trains three times
def test_the_training_on_labels_begins_from_the_adapted_encoder(
    bundle: Path, ssa: SiteTraining, store: AdapterStore, datastore: StudiesFolder
) -> None:
    """One step of AdamW moves a weight by the learning rate at most; SSA takes more of them before."""
    weights = (bundle / "models" / "model.pt").read_bytes()
    adapted = ssa(STEP | {"max_epochs": 2, "samples_per_epoch": 8}, datastore)
    assert (adapted["version"], adapted["images"], adapted["stage"]) == (1, 6, "ssa")
    assert len(adapted["loss"]) == 2
    assert store.current("site") is None  # nothing to segment with
    items = json.loads((bundle / "runs" / "site" / "001" / "run.json").read_text())["items"]
    assert items == {"training": 5, "validation": 1}

    supervised = SiteTraining(LabelledStage(bundle, store), bundle / "runs", store)
    assert supervised(STEP, datastore)["version"] == 2
    assert store.current("site") == store.file("site", 2)
    base = torch.load(bundle / "models" / "model.pt", weights_only=True)
    before, after = load_file(store.file("site", 1)), load_file(store.file("site", 2))
    assert {name.partition(":")[0] for name in before} == {"encoder"}  # the method's alone
    for name, tensor in before.items():
        from_base = (tensor - base[name.replace("encoder:", "vit.")]).abs().max()
        assert 0 < (after[name] - tensor).abs().max() < 1.1e-3 < from_base
    name = "out.conv.conv.weight"  # the head begins from the bundle's
    assert 0 < (after[f"network:{name}"] - base[name]).abs().max() < 1.1e-3

    # An SSA begins from the bundle, whatever was trained before, and takes nothing from inference.
    assert ssa(STEP, datastore)["version"] == 3
    again = load_file(store.file("site", 3))
    assert all((again[name] - base[name.replace("encoder:", "vit.")]).abs().max() < 1.1e-3 for name in again)
    assert store.current("site") == store.file("site", 2)
    assert ssa({"adapter": "site", "undo": True}, datastore)["version"] == 2
    assert (bundle / "models" / "model.pt").read_bytes() == weights
