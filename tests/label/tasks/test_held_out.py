# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from monai_essa import adapt, save_adapter
from monai_essa.label.tasks.training import compared, held_out_dice, volume_digests
from monai_essa.methods import APLA
from tests.label.tasks.test_adapter_infer import base_of


@pytest.fixture
def adapter(bundle: Path, tmp_path: Path) -> Callable[[float], Path]:
    """Writes an adapter that moves the output for the foreground by a number."""

    def make(bias: float) -> Path:
        network = adapt(base_of(bundle), APLA(), also_train=[r"out\..*"])
        with torch.no_grad():
            network.get_parameter("out.conv.conv.bias")[1] += bias
        return save_adapter(network, tmp_path / f"{bias}.safetensors")

    return make


def test_the_worse_of_two_is_not_promoted(
    bundle: Path, studies: Path, truth: Path, adapter: Callable[[float], Path]
) -> None:
    items = [
        {"image": str(studies / name), "label": str(truth / name)} for name in ("case_02.nii.gz", "case_03.nii.gz")
    ]
    everything, nothing = adapter(100.0), adapter(-100.0)
    some = compared(bundle, items, everything, nothing, "cpu")
    assert some["promoted"]
    assert some["held_out"]["volumes"] == 2
    assert some["held_out"]["dice"] > some["held_out"]["before"] == 0
    worse = compared(bundle, items, nothing, everything, "cpu")
    assert not worse["promoted"]
    assert (worse["held_out"]["dice"], worse["held_out"]["before"]) == (0, some["held_out"]["dice"])
    base = held_out_dice(bundle, items, None, "cpu")
    assert base == held_out_dice(bundle, items, adapter(0.0), "cpu")
    assert compared(bundle, items, adapter(0.0), None, "cpu")["promoted"]  # as good as what is in use


def test_nothing_is_said_without_a_volume(bundle: Path, tmp_path: Path) -> None:
    assert compared(bundle, [], tmp_path / "new", None, "cpu") == {}


def test_a_digest_tells_volumes_apart_and_no_name() -> None:
    one, two = ({"image": f"/studies/case_0{number}.nii.gz"} for number in (0, 1))
    assert volume_digests([two, one]) == sorted([*volume_digests([one]), *volume_digests([two])])
    assert volume_digests([one]) == volume_digests([{"image": "/elsewhere/case_00.nii.gz"}]) == ["874f2ee12fdae91c"]
