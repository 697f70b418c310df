# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the decisions on recipe, batch, caches and epochs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from monai_essa.planning.choices import Computer, Timing, cache_choices, epoch_choices, recipe_choice
from monai_essa.planning.site import SiteFacts

GB = 10**9
FACTS = SiteFacts(
    datalist=Path("d"),
    sections=("training",),
    scans=100,
    labelled=20,
    validation=5,
    read=20,
    extent=(200.0,) * 3,
    spacing=(1.0,) * 3,
    channels=1,
    modality="mr",
    modality_reason="",
    classes={"a": 0, "b": 1},
)


def peak(fast: float, small: float) -> Callable[[str, int], int]:
    """GB for each patch, over 1 GB of weights."""
    return lambda lean, batch: int((1 + batch * {"fast": fast, "small": small}[lean]) * GB)


@pytest.mark.parametrize(
    ("budget", "scans", "lean", "batch"),
    [
        (100, 100, "fast", 16),
        (100, 10, "fast", 8),
        (100, 1, "fast", 1),
        (5, 100, "fast", 4),
        (4.9, 100, "small", 16),  # 1 + 16 x 0.2 = 4.2
        (4.9, 3, "fast", 2),
        (1.8, 100, "small", 4),
        (1.3, 100, "small", 1),
    ],
)
def test_the_first_of_the_list_that_fits_is_taken(budget: float, scans: int, lean: str, batch: int) -> None:
    chosen = recipe_choice(int(budget * GB), scans, peak(1.0, 0.2), "ViT")
    assert (chosen["lean"].value, chosen["batch_size"].value) == (lean, batch)


def test_reasons_name_the_peaks() -> None:
    chosen = recipe_choice(9 * GB, 100, peak(1.0, 0.2), "ViT")
    assert chosen["batch_size"].reason == "9.00 GB at the peak of a step, of 9.00 GB; 16 would take 17 GB"
    chosen = recipe_choice(int(4.9 * GB), 100, peak(1.0, 0.2), "ViT")
    assert chosen["lean"].reason == "recomputes in the backward pass; fast takes 5.00 GB with a batch of 4"


def test_a_patch_that_does_not_fit_is_one_line() -> None:
    with pytest.raises(
        ValueError, match=r"expected at least 1.20 GB for ViT with one patch .*, got 0.30 GB.* --memory"
    ):
        recipe_choice(GB * 3 // 10, 100, peak(1.0, 0.2), "ViT")


def cached(ram: float, disk: float, stage: str = "essa_ssa", patch: int = 96) -> tuple[float, str | None, str]:
    card = Computer(GB, "", "cpu", int(ram * GB), int(disk * GB))
    choices = cache_choices(FACTS, (1, 1, 1), [patch] * 3, stage, card, Path("cache"))
    return choices["cache_rate"].value, choices["cache_dir"].value, choices["cache_rate"].reason


def test_scans_that_fit_stay_in_memory() -> None:
    # 100 scans of 200 cubed voxels, 5 bytes each: 4 GB.
    assert cached(ram=16, disk=1)[:2] == (1.0, None)
    assert cached(ram=16, disk=1)[2] == "100 preprocessed scans take about 4.00 GB of the 16 GB of memory"


def test_scans_that_do_not_go_to_the_disk() -> None:
    assert cached(ram=15, disk=5)[:2] == (1.0, "cache")


def test_without_room_on_the_disk_a_part_stays_in_memory() -> None:
    assert cached(ram=8, disk=4.2)[:2] == (0.5, None)


def test_labels_and_padding_count() -> None:
    assert cached(ram=6.3, disk=5, stage="essa_segmentation")[:2] == (1.0, "cache")  # 25 scans: 1.64 GB
    assert cached(ram=6.7, disk=5, stage="essa_segmentation")[:2] == (1.0, None)
    assert cached(ram=16, disk=10, patch=256)[:2] == (1.0, "cache")


COUNTS = {"scans": 90, "batch": 4, "forwards": 3, "files": 100}


def test_epochs_fill_nine_tenths_of_the_hours() -> None:
    # Filling 100 s; an epoch of 23 x 1.1 s; a validation of 3 x 1/3 s after each.
    chosen = epoch_choices(1, Timing(step=1.0, batch=0.1, scan=1.0), COUNTS, 1.0)
    assert chosen["max_epochs"].value == int((3240 - 100) / (25.3 + 1))
    assert chosen["max_epochs"].reason.startswith("0.9 of 1 hours: 23 steps of 1 s an epoch, 0.1 s to load")
    assert chosen["val_interval"].value == 1


def test_scans_that_no_cache_holds_are_loaded_in_each_epoch() -> None:
    chosen = epoch_choices(1, Timing(step=1.0, batch=0.1, scan=1.0), COUNTS, 0.5)
    assert chosen["max_epochs"].value == int((3240 - 50) / (25.3 + 45 + 1))


def test_a_long_validation_is_rarer() -> None:
    chosen = epoch_choices(1, Timing(step=1.0, batch=0.1, scan=1.0), COUNTS | {"forwards": 30}, 1.0)
    assert chosen["val_interval"].value == 2  # 10 s are more than a fifth of 25.3 s


def test_epochs_have_a_limit_at_both_ends() -> None:
    assert epoch_choices(1000, Timing(1e-3, 1e-4, 1e-3), COUNTS, 1.0)["max_epochs"].value == 1000
    slow = epoch_choices(0.1, Timing(100.0, 1.0, 1.0), COUNTS, 1.0)["max_epochs"]
    assert (slow.value, "not even one epoch fits" in slow.reason) == (1, True)


def test_a_run_of_one_epoch_is_validated() -> None:
    """A validation that takes far more than a fifth of an epoch would come after the end."""
    timing = Timing(step=1.0, batch=0.0, scan=0.0)
    chosen = epoch_choices(0.001, timing, {"scans": 2, "batch": 1, "forwards": 100, "files": 0}, 1.0)
    assert (chosen["max_epochs"].value, chosen["val_interval"].value) == (1, 1)
