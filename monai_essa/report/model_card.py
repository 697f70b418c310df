# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a finished run adds to the model card of its adapter: how many scans it saw, and how well it did on others."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from monai_essa.adapters.hub.card import CardFacts
from monai_essa.evaluation.run_scores import DICE, RunScores, read_run
from monai_essa.outside import MapOf, Number, Text, shown

__all__ = ["METRIC_IDS", "run_card_facts", "run_record"]

METRIC_IDS = {DICE: "dice"}
"""Identifiers of metrics on the hub; a Brier score is ``brier_score``."""
_ITEMS = MapOf(Number(0, 10**9, whole=True), Text(r"[A-Za-z0-9_# .-]+", 100), longest=100)


def run_card_facts(run: Path, base_model: str | None = None, permission: str | None = None) -> CardFacts:
    """Read what a model card says about a run.

    Args:
        run: folder of a finished run, or an adapter file, about which nothing more is known.
        base_model: identifier of the base on the hub.
        permission: who allowed to share weights that derive from the base.

    Returns:
        The facts; a run that was not scored on a test section has no performance.

    Raises:
        ValueError: if run.json or the table of the scores is damaged.
    """
    if not run.is_dir() or not (run / "run.json").is_file():
        return CardFacts(base_model=base_model, permission=permission)
    items = _ITEMS.check(run_record(run).get("items", {}), f"{run / 'run.json'}, field 'items'")
    counts = [f"{count} in the section '{name}'" for name, count in items.items()]
    data = (f"Images: {', '.join(counts)}.",) if counts else ()
    scores = _scores(run)
    if scores is None:
        return CardFacts(data=data, base_model=base_model, permission=permission)
    metric = METRIC_IDS.get(scores.metric, "brier_score")
    return CardFacts(
        performance=(_performance(scores),), metrics=(metric,), data=data, base_model=base_model, permission=permission
    )


def run_record(run: Path) -> dict[str, Any]:
    """Read the run.json of a run, finished or not.

    Args:
        run: the run folder.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not a JSON object.
    """
    path = run / "run.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected the folder of a run")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected the JSON record of a run, got {error}; copy it again") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path}: expected the JSON record of a run, got {shown(record)}; copy it again")
    return record


def _scores(run: Path) -> RunScores | None:
    try:
        return read_run(run)
    except FileNotFoundError:
        return None


def _performance(scores: RunScores) -> str:
    defined = [value for value in scores.scores.values() if not math.isnan(value)]
    if not defined:
        return "No test case has a class that could be scored."
    direction = "higher" if scores.metric == DICE else "lower"
    return (
        f"{scores.metric[0].upper()}{scores.metric[1:]}: {sum(defined) / len(defined):.3f} ({direction} is better). "
        f"Mean over the test cases of one run, {len(defined)} of which have a score; the owner chose the test section."
    )
