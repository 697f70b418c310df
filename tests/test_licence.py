# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The origin of weights: what it says, and that it goes from file to network to adapter to model.pt and back."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import SwinUNETR

from monai_essa import adapt, load_weights, merge, save_adapter
from monai_essa.adapters.record import read_header
from monai_essa.anatomy import state_with_grid
from monai_essa.engines import StageOutputs, open_run
from monai_essa.licence import check_permission, keep_origin, kept_origin, licence_line, licence_text
from monai_essa.methods import APLA
from monai_essa.weights.families import origin_of
from monai_essa.weights.family_files import family_named

SUPREM = dict(origin_of(family_named("suprem"), 64 * "a"))


def swin() -> SwinUNETR:
    return SwinUNETR(1, 2, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2), window_size=3)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "supervised_suprem_swinunetr_2100.pth"
    torch.save({"net": {f"module.backbone.{name}": t for name, t in swin().state_dict().items()}}, path)
    return path


def test_the_licence_goes_from_the_base_through_a_stage_to_the_next(base: Path, tmp_path: Path) -> None:
    network = swin()
    origin = load_weights(network, base).origin
    assert origin is not None and origin["family"] == "suprem" and origin["restrictions"] == ["NC", "ND"]
    run = tmp_path / "run"
    open_run(run, {}, {"training": []}, seed=0)
    StageOutputs(adapt(network, APLA()), run, "network")(None)  # type: ignore[arg-type]
    assert read_header(run / "adapter.safetensors").record["base"] == origin
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["base"] == origin

    (next_stage := swin()).load_state_dict(torch.load(run / "model.pt", weights_only=True))
    report = load_weights(next_stage, run / "model.pt")
    assert (report.family, report.origin) == ("suprem", origin)
    save_adapter(adapt(next_stage, APLA()), tmp_path / "next.safetensors")
    assert read_header(tmp_path / "next.safetensors").record["base"] == origin


def test_copies_and_merged_networks_keep_the_origin() -> None:
    network = swin()
    keep_origin(network, SUPREM)
    assert kept_origin(copy.deepcopy(network)) == SUPREM
    assert kept_origin(merge(adapt(network, APLA()))) == SUPREM
    assert kept_origin(swin()) is None


def test_weights_of_ones_own_are_not_of_an_unknown_family(tmp_path: Path) -> None:
    network = swin()
    keep_origin(network, None)
    torch.save(state_with_grid(network, network.state_dict()), tmp_path / "model.pt")
    assert load_weights(swin(), tmp_path / "model.pt").origin is None
    torch.save(swin().state_dict(), tmp_path / "model.pt")
    unknown = load_weights(swin(), tmp_path / "model.pt").origin
    assert unknown is not None and (unknown["family"], unknown["licence"]) == (None, None)


@pytest.mark.parametrize(
    "origin", [3, {}, SUPREM | {"licence": 5}, SUPREM | {"url": "a\nb"}, SUPREM | {"more": 1}, SUPREM | {"sha256": "x"}]
)
def test_an_origin_from_outside_is_checked(origin: Any, tmp_path: Path) -> None:
    network = swin()
    state = state_with_grid(network, network.state_dict())
    state._metadata = {"": {"version": 1, "origin": origin}}  # type: ignore[attr-defined]
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="model.pt: the origin of 'its tensors'") as caught:
        load_weights(network, tmp_path / "model.pt")
    assert "\n" not in str(caught.value)


def test_an_adapter_without_an_origin_stays_readable(tmp_path: Path) -> None:
    save_adapter(adapt(swin(), APLA()), tmp_path / "a.safetensors")
    assert "base" not in read_header(tmp_path / "a.safetensors").record


@pytest.mark.parametrize("permission", [None, "", "  "])
def test_no_derivatives_asks_for_a_permission(permission: str | None) -> None:
    with pytest.raises(ValueError, match="--permission"):
        check_permission(SUPREM, permission, "model.pt")


def test_a_permission_is_recorded_and_not_asked_for_twice() -> None:
    given = check_permission(SUPREM, "mail of the authors, 2 March", "model.pt")
    assert given is not None and given["permission"] == "mail of the authors, 2 March"
    assert check_permission(given, None, "model.pt") == given
    assert "mail of the authors, 2 March" in licence_text(given)


@pytest.mark.parametrize("family", ["mae", "medicalnet", "sam"])
def test_other_licences_ask_for_none(family: str) -> None:
    origin = origin_of(family_named(family), 64 * "a")
    assert check_permission(origin, None, "model.pt") == origin
    assert check_permission(None, None, "model.pt") is None


def test_no_line_says_that_commerce_is_allowed() -> None:
    assert licence_line(SUPREM).startswith("CC BY-NC-ND 4.0 (NC: no commercial use; ND: modified weights must not")
    assert licence_line(origin_of(family_named("voco"), 64 * "a")).endswith("LICENSE-2.0)")
    assert "restrictions unknown" in licence_line(origin_of(family_named("voco"), 64 * "a"))
    assert "Li et al." in licence_text(SUPREM) and 64 * "a" in licence_text(SUPREM)


def test_other_images_than_the_weights_expect_are_refused_before_training(tmp_path: Path) -> None:
    network = swin()
    keep_origin(network, None, {"axcodes": "SPL", "spacing": [1.5, 1.5, 2.0]})
    card = {"axcodes": "RAS", "spacing": [1.5, 1.5, 2.0], "intensity": "ct"}
    with pytest.raises(ValueError, match="the weights expect axcodes 'SPL', this run has 'RAS': set axcodes"):
        StageOutputs(network, tmp_path, "network", card)
    StageOutputs(network, tmp_path, "network", card | {"axcodes": "SPL"})
    with pytest.raises(ValueError, match=r"expect spacing .*1\.5, 1\.5, 2\.0.* this run has .*1\.0"):
        StageOutputs(network, tmp_path, "network", {"spacing": [1.0, 1.0, 1.0]})
