# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the decisions on stage, spacing and patch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from monai_essa.planning.choices import patch_choice, spacing_choice, stage_choice
from monai_essa.planning.site import SiteFacts

CT = SiteFacts(
    datalist=Path("dataset.json"),
    sections=("unlabeled", "training"),
    scans=100,
    labelled=4,
    validation=2,
    read=20,
    extent=(350.0, 350.0, 400.0),
    spacing=(0.7, 0.7, 5.0),
    channels=1,
    modality="ct",
    modality_reason="air",
    classes={"background": 0, "spleen": 1},
)


@pytest.mark.parametrize(
    ("labelled", "validation", "stage"), [(0, 0, "ssa"), (9, 2, "ssa"), (50, 0, "ssa"), (10, 1, "segmentation")]
)
def test_few_labels_mean_adaptation(labelled: int, validation: int, stage: str) -> None:
    choice = stage_choice(replace(CT, labelled=labelled, validation=validation))
    assert choice.value == f"essa_{stage}"
    assert f"{labelled} of 100 scans have a label for training" in choice.reason


def test_the_user_may_choose_the_stage() -> None:
    assert stage_choice(CT, "segmentation").value == "essa_segmentation"
    with pytest.raises(ValueError, match="needs label maps in training and validation, got 4 and 0"):
        stage_choice(replace(CT, validation=0), "segmentation")


def test_the_median_spacing_is_kept_where_a_patch_holds_a_third() -> None:
    choice = spacing_choice(replace(CT, extent=(190.0, 200.0, 180.0), spacing=(1.0, 1.0, 1.004)))
    assert (choice.value, choice.reason) == ([1.0, 1.0, 1.0], "the median of 20 scans")


def test_fine_scans_of_large_bodies_become_coarser_up_to_a_limit() -> None:
    choice = spacing_choice(CT)
    assert choice.value == [1.22, 1.22, 5.0]  # 350 mm / 3 / 96; 5 mm is coarser than the limit already
    assert "the median of 20 scans is 0.7 x 0.7 x 5 mm; coarser" in choice.reason
    assert spacing_choice(replace(CT, extent=(900.0, 900.0, 400.0))).value == [1.5, 1.5, 5.0]


def test_a_patch_says_what_it_holds() -> None:
    choice = patch_choice(replace(CT, extent=(288.0, 288.0, 288.0)), [1.5, 1.5, 1.5], "vit")
    assert choice.value == [96, 96, 96]
    assert choice.reason == "144 x 144 x 144 mm, 12% of the median scan (288 x 288 x 288 mm)"


@pytest.mark.parametrize(
    ("network", "patch"), [("vit", [48, 64, 32]), ("swin_unetr", [64, 64, 64]), ("segresnet", [48, 64, 32])]
)
def test_small_scans_have_small_patches_in_the_networks_steps(network: str, patch: list[int]) -> None:
    choice = patch_choice(replace(CT, extent=(35.0, 50.0, 20.0)), [1.0, 1.0, 1.0], network)
    assert choice.value == patch
    assert "100% of the median scan" in choice.reason


def test_a_side_that_fits_exactly_is_not_rounded_up() -> None:
    assert patch_choice(replace(CT, extent=(48.0, 48.0, 4.8)), [1.0, 1.0, 0.1], "vit").value == [48, 48, 48]
