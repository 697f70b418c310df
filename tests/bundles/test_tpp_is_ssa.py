# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Target parameter pre-training is self-supervised adaptation with another method and another result: one config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
# What may differ: the stage, the default of the method with its learning rate, and what is written where.
OWN = {"stage", "method", "output_dir", "handover"}
OWN_FILES = {"train.yaml", "reconstruct.yaml", "objective_simmim_decoder.yaml"}


def config(bundle: str, name: str) -> dict[str, Any]:
    return yaml.safe_load((BUNDLES / bundle / "configs" / name).read_text(encoding="utf-8"))


def names(bundle: str) -> set[str]:
    return {path.name for path in (BUNDLES / bundle / "configs").glob("*.yaml")}


def test_training_differs_in_stage_method_and_outputs_only() -> None:
    ssa, tpp = (config(bundle, "train.yaml") for bundle in ("essa_ssa", "essa_tpp"))
    assert list(ssa) == list(tpp)
    assert {key for key in ssa if ssa[key] != tpp[key]} == OWN
    assert (ssa["stage"], tpp["stage"]) == ("ssa", "tpp")


def test_full_tuning_and_encoders_of_timm_are_for_ssa_only() -> None:
    only_ssa = {"method_full.yaml", "reconstruct_adapter.yaml", "network_timm.yaml", "inference_timm.yaml"}
    assert names("essa_ssa") - names("essa_tpp") == only_ssa
    assert names("essa_tpp") <= names("essa_ssa")


@pytest.mark.parametrize("name", sorted(names("essa_tpp") - OWN_FILES))
def test_an_overlay_is_the_same_file(name: str) -> None:
    ssa, tpp = (BUNDLES / bundle / "configs" / name for bundle in ("essa_ssa", "essa_tpp"))
    assert ssa.read_bytes() == tpp.read_bytes()
