# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The whole plan of a run: choices in the order in which one needs the other, the meter's and the clock's with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_essa.bundle_folder import bundle_folder
from monai_essa.cli.plan_measures import measured_peak, measured_times, window_count
from monai_essa.efficiency.card import Card
from monai_essa.efficiency.cost_plan import cache_choices, epoch_choices, recipe_choice
from monai_essa.efficiency.site_facts import SiteFacts
from monai_essa.efficiency.site_network import network_choice, overlay_choices
from monai_essa.efficiency.site_plan import Choice, patch_choice, spacing_choice, stage_choice
from monai_essa.outside import check_config_value

__all__ = ["Plan", "Wishes", "plan_run"]

Choices = dict[str, Choice]


@dataclass(frozen=True)
class Wishes:
    """What the user asked for.

    Attributes:
        out: the file that will be written; the run's folder and a cache lie beside it.
        hours: for the whole run.
        stage: ``ssa`` or ``segmentation``.
        network: ``vit``, ``unetr``, ``swin_unetr`` or ``segresnet``.
        pretrained: weight file.
        adapter: of an earlier stage.
        values: over those of the plan, by key of the configs.
    """

    out: Path
    hours: float
    stage: str | None
    network: str | None
    pretrained: Path | None
    adapter: Path | None
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """The choices, the promised peak of a step, and what a card measured; None without one."""

    config_files: list[Choice]
    values: Choices
    peak: int
    measured: int | None


def plan_run(wishes: Wishes, facts: SiteFacts, card: Card) -> Plan:
    """Decide, and measure what the decisions rest on: three loads and five training steps are real.

    Args:
        wishes: of the user.
        facts: of the scans.
        card: of the computer.

    Returns:
        The plan.

    Raises:
        FileNotFoundError: if a weight file is missing.
        ValueError: if nothing fits, or the wishes contradict each other or the data.
    """
    stage = _stage(wishes, facts)
    network = network_choice(stage.value, wishes.pretrained, wishes.network)
    config_files = _config_files(stage, network, facts, wishes.pretrained is not None)
    names = [choice.value for choice in config_files]

    given = {key: Choice(value, "--args") for key, value in wishes.values.items()}
    spacing = given.get("spacing") or spacing_choice(facts)
    patch = given.get("img_size") or patch_choice(facts, spacing.value, network.value)
    values = _data(wishes, facts, stage.value) | {"spacing": spacing, "img_size": patch} | given

    scans, held_out = _counts(facts, stage.value)
    peak_of = measured_peak(names, _plain(values))
    values |= recipe_choice(card.budget, scans, peak_of, network.value)
    cache = wishes.out.absolute().parent / "cache"
    values |= cache_choices(facts, spacing.value, patch.value, stage.value, card, cache) | given

    timing, measured = measured_times(names, _plain(values))
    batch = values["batch_size"].value
    windows = window_count(facts.extent, spacing.value, patch.value) if stage.value == "essa_segmentation" else 1
    counts = {"scans": scans, "batch": batch, "forwards": -(-held_out * windows // batch), "files": scans + held_out}
    values |= epoch_choices(wishes.hours, timing, counts, values["cache_rate"].value)
    own = {key: choice for key, choice in values.items() if key not in given}
    return Plan(config_files, own | given, peak_of(values["lean"].value, batch), measured)


def _stage(wishes: Wishes, facts: SiteFacts) -> Choice:
    if wishes.adapter is None:
        return stage_choice(facts, wishes.stage)
    if wishes.stage == "ssa" or wishes.pretrained is None:
        raise ValueError("--adapter is for --stage segmentation and belongs to the weights of --pretrained; give both")
    return stage_choice(facts, "segmentation")


def _config_files(stage: Choice, network: Choice, facts: SiteFacts, pretrained: bool) -> list[Choice]:
    modality = Choice(facts.modality, facts.modality_reason)
    files = [Choice("train.yaml", stage.reason), *overlay_choices(stage.value, network, modality, pretrained)]
    configs = bundle_folder(stage.value) / "configs"
    return [Choice(str(configs / choice.value), choice.reason) for choice in files]


def _counts(facts: SiteFacts, stage: str) -> tuple[int, int]:
    """Count the scans to train on and those held out; essa_ssa holds out each tenth, but never the only one."""
    if stage == "essa_segmentation":
        return facts.labelled, facts.validation
    held_out = -(-facts.scans // 10)
    return max(1, facts.scans - held_out), held_out


def _data(wishes: Wishes, facts: SiteFacts, stage: str) -> Choices:
    values = {"dataset_dir": Choice(str(facts.datalist.parent), "holds the data list")}
    if facts.datalist.name != "dataset.json":
        values["datalist"] = Choice(str(facts.datalist), "made from the folder, split by patient")
    if stage == "essa_segmentation":
        values["labels"] = Choice(dict(facts.classes), "names and ids of the data list, else the ids in the label maps")
    elif len(facts.sections) > 1:
        values["section"] = Choice(list(facts.sections), "self-supervision reads no labels, so their images may join")
    run = wishes.out.absolute().parent / "runs" / wishes.out.stem
    values["output_dir"] = Choice(str(run), "beside this file; a finished run is never overwritten")
    values["in_channels"] = Choice(facts.channels, f"of the {facts.read} scans that were read")
    values |= _start(wishes, stage)
    check_config_value(_plain(values), "the plan")  # names of files and labels; only code of ours may hold expressions
    return values


def _start(wishes: Wishes, stage: str) -> Choices:
    if wishes.pretrained is None:
        return {}
    weights = {"pretrained": Choice(str(wishes.pretrained.absolute()), "--pretrained")}
    if stage == "essa_ssa":
        return weights
    if wishes.adapter is None:
        return weights | {"start": Choice("encoder", "from the weights, without an adapter of an earlier stage")}
    adapter = Choice(str(wishes.adapter.absolute()), "--adapter")
    return weights | {"start": Choice("adapter", "the methods of the adapter file train on"), "adapter": adapter}


def _plain(values: Choices) -> dict[str, Any]:
    return {key: choice.value for key, choice in values.items()}
