# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from fastapi import HTTPException

from monai_essa.label.store import AdapterStore
from monai_essa.label.studies import StudiesFolder
from monai_essa.label.tasks.infer import AdapterInfer, EntropyScoring, MostUncertain, dropout_on, soft_entropy


def test_entropy_is_zero_when_sure_and_its_greatest_when_samples_disagree() -> None:
    sure = torch.tensor([1.0, 0.0])[None, :, None, None, None].expand(4, 2, 3, 3, 3)
    assert soft_entropy(sure) == pytest.approx(0, abs=1e-6)
    assert soft_entropy(torch.stack([sure[0], sure[0].flip(0)])) == pytest.approx(math.log(2))


def test_dropout_is_on_within_the_block_and_norms_stay_as_they_were() -> None:
    network = nn.Sequential(nn.Dropout(0.0), nn.BatchNorm1d(4)).eval()
    with dropout_on(network, 0.5) as layers:
        assert (layers, network[0].p, network[0].training, network[1].training) == (1, 0.5, True, False)
        assert (network(torch.ones(8, 4)) == 0).any()
    assert (network[0].p, network[0].training) == (0.0, False)


class Images:
    """What the strategy reads of a datastore."""

    def __init__(self, infos: dict[str, dict[str, Any]]) -> None:
        self.infos = infos

    def get_unlabeled_images(self, label_tag: Any, labels: Any) -> list[str]:
        return list(self.infos)

    def get_image_info(self, image: str) -> dict[str, Any]:
        return self.infos[image]


def test_the_highest_score_comes_first_and_what_was_just_given_last() -> None:
    served = {"strategy": {"epistemic": {"ts": time.time()}}}
    images = Images(
        {"a": {"epistemic_entropy": 0.1}, "b": {"epistemic_entropy": 0.9} | served, "c": {"epistemic_entropy": 0.5}}
    )
    choose = MostUncertain()
    assert choose({"strategy": "epistemic"}, images) == {"id": "c", "epistemic_entropy": 0.5}
    assert choose({"strategy": "another"}, images)["id"] == "b"
    assert choose({"strategy": "epistemic"}, Images({})) is None


def test_a_volume_that_was_not_read_comes_last() -> None:
    served = {"strategy": {"epistemic": {"ts": time.time()}}, "epistemic_entropy": 0.1}
    images = Images({"a": {"epistemic_entropy": None, "epistemic_unreadable": "cut off"}, "b": served})
    assert MostUncertain()({"strategy": "epistemic"}, images)["id"] == "b"


def test_a_volume_that_cannot_be_read_does_not_end_the_scoring(bundle: Path, studies: Path) -> None:
    scoring = EntropyScoring(AdapterInfer(bundle, {}, AdapterStore(bundle / "adapters")), samples=1)
    for number in (2, 3, 4, 5):
        (studies / f"case_{number:02d}.nii.gz").unlink()
    whole = (studies / "case_00.nii.gz").read_bytes()
    (studies / "case_00.nii.gz").write_bytes(whole[:500])
    store = StudiesFolder(str(studies))
    assert scoring({"device": "cpu"}, store) == {"total": 2, "executed": 1, "failed": 1}
    assert store.get_image_info("case_01")["epistemic_entropy"] > 0
    (line,) = store.status()["problems"]
    assert line.startswith("case_00: case_00.nii.gz: cannot be read as an image of this model")
    assert scoring({}, store)["failed"] == 0  # not again with the same version

    (studies / "case_00.nii.gz").write_bytes(whole)
    store.update_image_info("case_00", {"epistemic_stamp": None})
    assert scoring({}, store) == {"total": 2, "executed": 1, "failed": 0}
    assert store.status()["problems"] == []
    with pytest.raises(ValueError, match="field 'device'"):
        scoring({"device": "$exit(1)"}, store)
    with pytest.raises(HTTPException):
        scoring({"adapter": "no_such"}, store)
