# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for what a plan measures: the promised peak against the allocator's, and the clock's numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from torch.profiler import ProfilerActivity, profile

from monai_essa.bundling.folder import bundle_folder
from monai_essa.planning.run import measured_peak, measured_times, window_count

SMALL = {"img_size": [32, 32, 32], "hidden_size": 192, "mlp_dim": 768, "num_heads": 4, "cache_rate": 1.0}
STAGES: dict[str, dict[str, Any]] = {
    "essa_ssa": SMALL,
    "essa_segmentation": SMALL | {"feature_size": 8, "labels": {"background": 0, "ball": 1}},
}
OVERLAYS = {"essa_ssa": "method_full.yaml", "essa_segmentation": "start_random.yaml"}


def configs(stage: str) -> list[str]:
    return [str(bundle_folder(stage) / "configs" / name) for name in ("train.yaml", OVERLAYS[stage])]


@pytest.fixture
def site(volumes: Path, tmp_path: Path) -> dict[str, Any]:
    return {"dataset_dir": str(volumes), "output_dir": str(tmp_path / "run"), "precision": "fp32"}


def allocations(nodes: list[Any]) -> Iterator[tuple[int, int, int]]:
    """When the CPU allocator was called, what it had given out afterwards, and by how much that differed."""
    for node in nodes:
        if node.tag.name == "Allocation":
            yield node.start_time_ns, node.extra_fields.total_allocated, node.extra_fields.alloc_size
        yield from allocations(node.children)


@pytest.mark.slow  # an epoch under the profiler, which notes every allocation
@pytest.mark.skipif(torch.cuda.is_available(), reason="compares with the CPU's allocator")
@pytest.mark.parametrize("stage", sorted(STAGES))
def test_the_promised_peak_is_the_allocators_within_a_tenth(stage: str, site: dict[str, Any]) -> None:
    values = site | STAGES[stage] | {"batch_size": 2, "samples_per_epoch": 6, "max_epochs": 1, "lean": "fast"}
    promised = measured_peak(configs(stage), values)("fast", 2)
    parser = ConfigParser()
    parser.read_config(configs(stage))
    parser.update(values | {"train#trainer#train_handlers": [], "optimizer#fused": True})
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        parser.get_parsed_content("train#trainer").run()
    calls = sorted(allocations(profiler.profiler.kineto_results.experimental_event_tree()))
    before = calls[0][1] - calls[0][2]
    assert promised == pytest.approx(max(total for _, total, _ in calls) - before, rel=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("stage", sorted(STAGES))
def test_the_promised_peak_is_the_cards_within_a_tenth(stage: str, site: dict[str, Any]) -> None:
    values = site | STAGES[stage] | {"img_size": [96, 96, 96], "batch_size": 2, "lean": "fast"}
    promised = measured_peak(configs(stage), values)("fast", 2)
    used = measured_times(configs(stage), values)[1]
    assert used is not None
    assert promised == pytest.approx(used, rel=0.1)


def test_a_larger_batch_takes_more_and_costs_no_memory_to_ask(site: dict[str, Any]) -> None:
    peak = measured_peak(configs("essa_ssa"), site | STAGES["essa_ssa"])
    one, two, many = (peak("fast", batch) for batch in (1, 2, 10**6))
    assert one < two
    assert many > 10**11
    assert peak("fast", 1) == one


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_loads_and_steps_are_timed_and_nothing_is_written(stage: str, site: dict[str, Any], tmp_path: Path) -> None:
    values = site | STAGES[stage] | {"batch_size": 2, "lean": "fast", "cache_dir": str(tmp_path / "cache")}
    timing, used = measured_times(configs(stage), values)
    assert min(timing.step, timing.batch, timing.scan) > 0
    assert (used is None) is not torch.cuda.is_available()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("extent", "spacing", "patch", "windows"),
    [
        ((96, 96, 96), (1, 1, 1), (96, 96, 96), 1),
        ((50, 50, 50), (1, 1, 1), (96, 96, 96), 1),
        ((100, 96, 192), (1, 1, 2), (96, 96, 96), 2),
        ((192, 192, 192), (1, 1, 1), (96, 96, 96), 27),
    ],
)
def test_windows_overlap_by_half(
    extent: tuple[float, ...], spacing: tuple[float, ...], patch: tuple[int, ...], windows: int
) -> None:
    assert window_count(extent, spacing, patch) == windows
