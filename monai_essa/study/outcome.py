# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The outcome of a study: its verdict in numbers and words, from the frozen plan and the tables of its tests alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from monai_essa.data.lists.read import listed_patients, read_datalist, section_items
from monai_essa.evaluation.auc_difference import auc_comparison, why_no_auc
from monai_essa.evaluation.baselines.rivals import read_rivals
from monai_essa.evaluation.choice import Chosen, choose_arm, name_in_advance
from monai_essa.evaluation.comparison import Comparison, Primary
from monai_essa.evaluation.repeats import ArmScores
from monai_essa.evaluation.run_scores import DICE, RunScores, SiteScores, joined_folds, read_run, site_scores
from monai_essa.evaluation.verdict import Verdict, arm_row, reach_verdict
from monai_essa.files import write_text_whole
from monai_essa.outside import (
    NAME,
    Check,
    Choice,
    Flag,
    ListOf,
    Nullable,
    Number,
    Record,
    Text,
    check_config_value,
    inside,
)
from monai_essa.planning.study_plan import PLAN, PlannedStage, read_plan
from monai_essa.study.arms import ARMS
from monai_essa.study.terms.trials import TriedRates, tried_rates

__all__ = ["SIMPLICITY", "study_verdict", "write_verdict"]

SIMPLICITY = ("head", "no_ssa", "no_ssa_longer", "full", "scratch", "tpp", "ssa", "full_ssa")
"""The arms that can be exported, the simplest first: fewer stages, then fewer trained tensors, then a shared base."""
_IN_ADVANCE = {True: ("scratch", "no_ssa"), False: ("no_ssa", "scratch")}  # by whether the base was made here
_FEW_LABELS = 10  # below, the exported arm is fixed in advance
_CHECKS = ("ssa_third", "no_ssa_third")
_PAIRS = (("ssa", "no_ssa"), ("no_ssa", "full"))  # that are described for other numbers of labels
_ID = Text(r"[a-z0-9][a-z0-9_-]*", longest=64)
_LINE = Text(longest=1000)
_COUNT = Number(0, 10**7, whole=True)
_PROTOCOL: dict[str, Check] = {
    "repeats": Number(1, 1000, whole=True),
    "folds": Number(1, 1000, whole=True),
    "labels": _COUNT,
    "margin": Number(0, 1),
    "metric": _LINE,
    "primaries": ListOf(ListOf(_ID, longest=3, shortest=3), longest=20),
    "rate_check": Choice(("thirds", "tuned", "none")),
    "provisional": Nullable(_LINE),
    "transductive": Flag(),
    "base": _LINE,
}
_OPTIONAL: dict[str, Check] = {  # in a plan of a version that did not know it
    "further_labels": ListOf(_COUNT, longest=20),
    "primaries_in_auc": ListOf(ListOf(_ID, longest=3, shortest=3), longest=20),
    "rates": _LINE,
}
_ARM_NAME = Text(NAME, longest=64)
_ARM = Record({"name": _ARM_NAME, "title": _LINE, "kind": Choice(("trained", "floor"))})
_DROPPED = Record({"name": _ARM_NAME, "reason": _LINE})


@dataclass(frozen=True)
class _Plan:
    """What the verdict needs of ``plan.yaml``.

    Args:
        folder: of the study.
        protocol: as it is.
        arms: name, title and kind.
        stages: in the order in which they run.
        dropped: names of the arms that were dropped before the first stage.
    """

    folder: Path
    protocol: Mapping[str, Any]
    arms: Sequence[Mapping[str, Any]]
    stages: Sequence[PlannedStage]
    dropped: Sequence[str]

    def titled(self, name: str) -> str:
        """Return the title of an arm in quotes."""
        titles = {arm.name: arm.title for arm in ARMS} | {arm["name"]: arm["title"] for arm in self.arms}
        return f'"{titles.get(name, name)}"'


def write_verdict(folder: str | Path) -> Path:
    """Write ``verdict.json`` of a study, whole; before the first test it holds the protocol alone.

    Args:
        folder: of the study, with ``plan.yaml``.

    Returns:
        The file. The same plan and tables give the same bytes.

    Raises:
        FileNotFoundError: as :func:`study_verdict`.
        ValueError: as :func:`study_verdict`.
    """
    path = Path(folder) / "verdict.json"
    text = json.dumps(study_verdict(folder).as_dict(), indent=2, allow_nan=False, ensure_ascii=False)
    write_text_whole(path, text + "\n")
    return path


def study_verdict(folder: str | Path) -> Verdict:
    """Reach the verdict of a study from its plan and the tables of its tests.

    The folds of a repeat are joined. An arm that lacks a test of any repeat is left out and named. SSA is said to help
    if it is shown to be superior, an arm that was given SSA's time is not ahead of it, and the difference at a third of
    the learning rates, where that is checked, has the same sign. What
    :func:`~monai_essa.evaluation.baselines.rivals.score_rival` wrote into ``rivals`` is described beside the arms.

    Args:
        folder: of the study, with ``plan.yaml``, ``datalist.json``, ``runs`` and perhaps ``rivals``.

    Returns:
        The verdict, with the arm to export: under 10 labelled patients the one fixed in advance, which is ``no_ssa``
        where weights were given and ``scratch`` where the base was made from the same scans; otherwise that of
        :func:`~monai_essa.evaluation.choice.choose_arm`, the simplest first as in :data:`SIMPLICITY`.

    Raises:
        FileNotFoundError: if there is no plan.
        ValueError: if the plan or a table is damaged, or the tables are not of the same patients.
    """
    plan = _read_plan(Path(folder))
    runs, missing = _finished(plan)
    left_out = dict.fromkeys(plan.dropped, "dropped before the first stage") | missing
    if not runs:
        return Verdict(plan.protocol, [], left_out=left_out, sentence=_no_verdict(plan, missing))
    site = _site(plan, runs)
    if site.metric != plan.protocol["metric"]:
        raise ValueError(f"{plan.folder}: planned for the {plan.protocol['metric']}, got tables of the {site.metric}")
    verdict = _compared(plan, site)
    chosen = _chosen(plan, site.arms)
    exported = None if chosen is None else _plain_choice(chosen, plan)
    helps, said = _whether_ssa_helps(plan, verdict, missing)
    said += [*_said_of_others(plan, verdict), *_said_of_export(plan, chosen, site), *_caution(plan, chosen, site.arms)]
    said += _limits(plan, left_out)
    rates = tried_rates(plan.folder, plan.stages)
    rows = [{**row, **_about(plan, row["name"]), **_rate(rates.get(row["name"]))} for row in verdict.arms]
    said_so = " ".join(said)
    found = replace(verdict, arms=rows, exported=exported, helps=helps, sentence=said_so, left_out=left_out)
    return replace(found, efficiency=_efficiency(plan))


def _efficiency(plan: _Plan) -> list[dict[str, Any]]:
    """Describe the arms that were trained on other numbers of labels; no word is said of them."""
    found = []
    for labels in plan.protocol.get("further_labels", []):
        runs, missing = _finished(plan, labels)
        if not runs:
            continue
        site = _site(plan, runs, with_rivals=False)
        described = Verdict({}, [arm_row(arm) for arm in site.arms])
        if len(site.arms) > 1:
            described = reach_verdict(site.arms, plan.protocol["margin"], primaries=[], described=_PAIRS)
        row = described.as_dict()
        found.append({"labels": labels, "arms": row["arms"], "comparisons": row["comparisons"], "left_out": missing})
    return found


def _read_plan(folder: Path) -> _Plan:
    path, plan = folder / PLAN, read_plan(folder)
    protocol = check_config_value(dict(plan.protocol), f"{path}, field 'protocol'")
    known = {name: protocol[name] for name in (*_PROTOCOL, *_OPTIONAL) if name in protocol}
    Record(_PROTOCOL, _OPTIONAL).check(known, f"{path}, field 'protocol'")
    arms = ListOf(_ARM, longest=100).check(plan.arms, f"{path}, arms")
    dropped = ListOf(_DROPPED, longest=100).check(plan.dropped, f"{path}, dropped")
    return _Plan(folder, protocol, arms, plan.stages, [each["name"] for each in dropped])


def _finished(plan: _Plan, labels: int | None = None) -> tuple[dict[str, list[RunScores]], dict[str, str]]:
    """Return the repeats of each arm that has them all, and why each other arm lacks some; with a number of labels."""
    runs: dict[str, list[RunScores]] = {}
    missing: dict[str, str] = {}
    patients = _patients(plan)
    for arm in plan.arms:
        stages = [stage for stage in plan.stages if stage.arm == arm["name"] and stage.labels == labels]
        if labels is not None and not stages:
            continue
        tests = {(each.repeat, each.fold): each for each in stages if each.kind in ("test", "floor")}
        repeats = range(1, plan.protocol["repeats"] + 1)
        folds = range(1, plan.protocol["folds"] + 1)
        wanted = [(repeat, fold) for repeat in repeats for fold in folds]
        lacking = next((place for place in wanted if place not in tests or not _scored(plan, tests[place])), None)
        if lacking is not None:
            missing[arm["name"]] = _why_missing(plan, stages, lacking)
            continue
        read = {place: read_run(_run_folder(plan, tests[place])) for place in wanted}
        runs[arm["name"]] = [joined_folds([read[repeat, fold] for fold in folds], patients) for repeat in repeats]
    return runs, missing


def _run_folder(plan: _Plan, stage: PlannedStage) -> Path:
    return inside(plan.folder / "runs", stage.run, f"{plan.folder / 'plan.yaml'}, stage {stage.name}")


def _scored(plan: _Plan, stage: PlannedStage) -> bool:
    """Tell whether a test has ended well."""
    ended = (plan.folder / "stages" / f"{stage.name}.done").is_file()
    return ended and (_run_folder(plan, stage) / "test").is_dir()


def _why_missing(plan: _Plan, stages: Sequence[PlannedStage], place: tuple[int, int]) -> str:
    failed = next((each for each in stages if (plan.folder / "stages" / f"{each.name}.failed").is_file()), None)
    if failed is not None:
        return f"stage {_first_that_failed(plan, failed).name} failed"
    return f"repeat {place[0]}, fold {place[1]} is not tested"


def _first_that_failed(plan: _Plan, stage: PlannedStage) -> PlannedStage:
    """Return the stage because of which this one failed: perhaps one that it needs."""
    needed = [each for each in plan.stages if each.name in stage.needs]
    before = next((each for each in needed if (plan.folder / "stages" / f"{each.name}.failed").is_file()), None)
    return stage if before is None else _first_that_failed(plan, before)


def _patients(plan: _Plan) -> dict[str, str]:
    path = plan.folder / "datalist.json"
    if not path.is_file():
        return {}
    tested = [name for name, items in section_items(read_datalist(path)) if name.endswith("#test") and items]
    return listed_patients(path, tested)


def _site(plan: _Plan, runs: Mapping[str, Sequence[RunScores]], with_rivals: bool = True) -> SiteScores:
    """Bring the arms together; the seeds of repeats are those of the plan, whatever a test wrote."""
    numbered = {
        name: [replace(run, seed=number) for number, run in enumerate(repeats)] for name, repeats in runs.items()
    }
    found = read_rivals(plan.folder / "rivals") if with_rivals else {}
    rivals = {name: [run] for name, (run, _) in found.items()}
    if clash := sorted(rivals.keys() & {arm["name"] for arm in plan.arms}):
        raise ValueError(
            f"{plan.folder / 'rivals' / clash[0]}: an arm of the study has this name; give the rival another"
        )
    return site_scores(numbered, _patients(plan), rivals)


def _compared(plan: _Plan, site: SiteScores) -> Verdict:
    protocol = dict(plan.protocol) | {"cases": site.cases, "undefined_cases": site.undefined}
    primaries = [Primary(*each) for each in plan.protocol["primaries"]]
    names = [arm.name for arm in site.arms]
    if len(names) == 1:
        return Verdict(protocol, [arm_row(site.arms[0])])
    pairs = [(names[0], name) for name in names[1:] if name not in _CHECKS]
    pairs += [pair for pair in (("no_ssa_longer", "no_ssa"), _CHECKS) if pair not in pairs]
    provisional, further = plan.protocol["provisional"] or "", len(plan.protocol.get("primaries_in_auc", []))
    verdict = reach_verdict(site.arms, plan.protocol["margin"], protocol, primaries, pairs, provisional, further)
    return replace(verdict, comparisons=[*verdict.comparisons, *_in_auc(plan, site, verdict)])


def _in_auc(plan: _Plan, site: SiteScores, verdict: Verdict) -> list[Comparison]:
    """Compare in AUC: decide what the protocol has fixed, and describe the other primary pairs."""
    if why_no_auc(site):
        return []
    fixed = {(a, b): Primary(a, b, question) for a, b, question in plan.protocol.get("primaries_in_auc", [])}
    found = []
    for each in verdict.primary:
        asked = fixed.get((each.a, each.b))
        level, margin = (verdict.protocol["level"] if asked else 0.95), plan.protocol["margin"]
        one = auc_comparison(site, each.a, each.b, level, primary=asked, margin=margin)
        withheld = asked is not None and plan.protocol["provisional"]
        found.append(replace(one, word="", reason=f"provisional: {withheld}") if withheld else one)
    return found


def _about(plan: _Plan, name: str) -> dict[str, Any]:
    """Return title and kind of an arm, and of a rival whether it is blinded."""
    own = next(({"title": arm["title"], "kind": arm["kind"]} for arm in plan.arms if arm["name"] == name), None)
    if own is not None:
        return own
    return {"title": name, "kind": "rival", "blinded": read_rivals(plan.folder / "rivals")[name][1]}


def _rate(tried: TriedRates | None) -> dict[str, Any]:
    return {} if tried is None else {"rate": tried.multiplier, "tried": list(tried.scores)}


def _chosen(plan: _Plan, arms: Sequence[ArmScores]) -> Chosen | None:
    """Return the arm to export; None if no arm that can be exported has scores."""
    by_name = {arm.name: arm for arm in arms}
    candidates = [by_name[name] for name in SIMPLICITY if name in by_name]
    if not candidates:
        return None
    if plan.protocol["labels"] < _FEW_LABELS:
        first = _IN_ADVANCE[plan.protocol["base"].startswith("made here")]
        return name_in_advance(candidates, [*first, *SIMPLICITY])
    return choose_arm(candidates, plan.protocol["margin"])


def _plain_choice(chosen: Chosen, plan: _Plan) -> dict[str, Any]:
    return asdict(chosen) | {"labels": plan.protocol["labels"], "metric": plan.protocol["metric"]}


def _no_verdict(plan: _Plan, missing: Mapping[str, str]) -> str:
    if not any(reason.endswith("failed") for reason in missing.values()):
        return "Nothing is tested yet, so there is no verdict."
    return " ".join(["There is no verdict, since no arm was tested in every repeat.", *_limits(plan, missing)])


def _whether_ssa_helps(plan: _Plan, verdict: Verdict, missing: Mapping[str, str]) -> tuple[bool | None, list[str]]:
    """Return whether SSA helps, and why, in sentences."""
    main = _between(verdict, "ssa", "no_ssa")
    if main is None or main.question != "superiority":
        reason = missing.get("ssa", "")
        failed = f"Whether SSA helps here is unknown, since {reason}: its log and its .failed file say why."
        return None, [failed] if reason.endswith("failed") else []
    said = [f"{_in_titles(plan, main)}."]
    if main.word != "superior":
        start = {"inferior": "SSA makes it worse here", "not decided": "Whether SSA helps here is not decided"}
        return (False if main.word == "inferior" else None), [f"{start.get(main.word, 'No verdict on SSA')}: {said[0]}"]
    title = plan.titled("no_ssa_longer")
    controls = {("ssa", "no_ssa_longer"): (f"against {title}", "its time does as much without it")}
    if plan.protocol["rate_check"] == "thirds":
        controls[_CHECKS] = ("at a third of the learning rates", "the difference has another sign there")
    agree = []
    for pair, (where, reason) in controls.items():
        found = _between(verdict, *pair)
        if found is None or math.isnan(found.estimate):
            return None, [*said, f"Whether SSA helps cannot be told, since the comparison {where} is missing."]
        if found.estimate < 0:
            behind = f"But {where} it is behind by {-found.estimate:.4f}"
            return False, [*said, f"{behind}, so SSA is not shown to help: {reason}."]
        agree.append(f"by {found.estimate:.4f} {where}")
    return True, [f"SSA helps here: {said[0]}", f"The controls agree: it is ahead {' and '.join(agree)}."]


def _between(verdict: Verdict, a: str, b: str) -> Comparison | None:
    return next((each for each in verdict.comparisons if (each.a, each.b, each.metric) == (a, b, "")), None)


def _in_titles(plan: _Plan, comparison: Comparison) -> str:
    return str(replace(comparison, a=plan.titled(comparison.a), b=plan.titled(comparison.b)))


def _said_of_others(plan: _Plan, verdict: Verdict) -> list[str]:
    others = [
        each for each in verdict.comparisons if each.question != "description" and (each.a, each.b) != ("ssa", "no_ssa")
    ]
    return [f"{_in_titles(plan, each)}." for each in others]


def _said_of_export(plan: _Plan, chosen: Chosen | None, site: SiteScores) -> list[str]:
    if chosen is None:
        return ["Nothing is exported, since no arm that can be has scores."]
    score = "mean Dice" if site.metric == DICE else "Brier score"
    interval = "" if math.isnan(chosen.low) else f", 95 % interval {chosen.low:.4f} to {chosen.high:.4f}"
    luck = "" if chosen.mean == chosen.uncorrected else f"; corrected for the choice, {chosen.uncorrected:.4f} before"
    number = (
        "" if math.isnan(chosen.mean) else f" Expected on a new patient: {score} {chosen.mean:.4f}{interval}{luck}."
    )
    why = chosen.reason
    for name in SIMPLICITY:
        why = why.replace(f"'{name}'", plan.titled(name))
    return [f"Exported is {plan.titled(chosen.name)}: {why}.{number}"]


def _caution(plan: _Plan, chosen: Chosen | None, arms: Sequence[ArmScores]) -> list[str]:
    """Say that a closed form is ahead of what is exported; nothing if none is."""
    floors = {each["name"] for each in plan.arms if each["kind"] == "floor"}
    means = {arm.name: arm_row(arm)["mean"] for arm in arms if arm.name in floors}
    sign = 1 if all(arm.higher_is_better for arm in arms) else -1
    best = max(means, key=lambda name: sign * means[name], default=None)
    if chosen is None or best is None or not sign * means[best] > sign * chosen.uncorrected:
        return []
    return [
        f"Caution: {plan.titled(best)}, which trains no network, has a better mean ({means[best]:.4f}) than what is "
        "exported. The networks have not learned enough to be of use: give them more hours or labels, or a better base."
    ]


def _limits(plan: _Plan, left_out: Mapping[str, str]) -> list[str]:
    said = [f"The base: {plan.protocol['base']}.", *filter(None, [plan.protocol.get("rates")])]
    if plan.protocol["transductive"]:
        said.append("SSA also saw the scans of the tested patients, without their labels (transductive).")
    if left_out:
        names: dict[str, list[str]] = {}
        for name, reason in left_out.items():
            names.setdefault(reason, []).append(plan.titled(name))
        listed = "; ".join(f"{', '.join(titles)} ({reason})" for reason, titles in names.items())
        said.append(f"Left out: {listed}.")
    return said
