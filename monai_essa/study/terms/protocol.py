# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The plan and protocol of a study, which are written before its first stage, and the draft in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from monai_essa.evaluation.auc_difference import LEAST_OF_CLASS
from monai_essa.planning.study_plan import StudyPlan
from monai_essa.study.arms import FLOORS, Arm
from monai_essa.study.scans import SiteScans
from monai_essa.study.terms.draft import Draft
from monai_essa.study.terms.listing import MULTIPLIERS
from monai_essa.study.terms.request import AdaptRequest

__all__ = ["draft_lines", "study_plan"]

_METRICS = {
    "segmentation": "mean Dice over the defined classes",
    "classification": "Brier score, mean over the classes",
}


def study_plan(request: AdaptRequest, site: SiteScans, draft: Draft) -> StudyPlan:
    """Return the plan of a study, with its protocol.

    Args:
        request: of the user.
        site: its scans.
        draft: what fits.
    """
    images = draft.design.images
    return StudyPlan(
        request=request.canonical(),
        protocol=_protocol(request, site, draft),
        arms=[
            {"name": arm.name, "title": arm.title, "kind": kind}
            for kind, arms in (("trained", draft.arms), ("floor", FLOORS[draft.design.task] if draft.arms else ()))
            for arm in arms
        ],
        dropped=[dict(each) for each in draft.dropped],
        stages=[planned for planned, _ in draft.stages],
        images={
            "spacing": None if images.spacing is None else list(images.spacing),
            "img_size": list(images.img_size),
            "in_channels": images.in_channels,
            "intensity": images.intensity,
            "labels": dict(images.labels),
            "spatial_dims": images.spatial_dims,
        },
    )


def _protocol(request: AdaptRequest, site: SiteScans, draft: Draft) -> dict[str, Any]:
    fold = draft.parts.repeats[0][0]
    labels = len({scan.patient for scan in fold.training})
    tested = {scan.patient for fold in draft.parts.repeats[0] for scan in fold.test}
    return {
        "task": draft.design.task,
        "estimand": "mean paired difference, on a new patient of this site, between two procedures trained on "
        f"{labels} labels, over training draws and seeds",
        "unit": _unit(site),
        "design": draft.parts.design,
        "repeats": len(draft.parts.repeats),
        "folds": len(draft.parts.repeats[0]),
        "labels": labels,
        "further_labels": list(draft.parts.further),
        "patients": len(tested),
        "unlabeled": len(fold.unlabeled),
        "margin": request.margin,
        "metric": _METRICS[draft.design.task],
        "primaries": _primaries(draft.arms),
        "primaries_in_auc": _primaries(draft.arms) if _auc_decides(draft) else [],
        "rate_check": _rate_check(draft),
        "rates": draft.rates,
        "multipliers": list(MULTIPLIERS) if _rate_check(draft) == "tuned" else [],
        "provisional": draft.provisional,
        "transductive": request.split.transductive,
        "base": "made here, SSA on the same scans" if request.study.pretrained is None else "given weights",
        "sentences": list(draft.parts.sentences),
    }


def _unit(site: SiteScans) -> str:
    if site.named:
        return "patient, as the data list names it"
    if len({scan.patient for scan in site.scans}) == len(site.scans):
        return "case, since each file has a name of its own and no data list names patients"
    return "patient, guessed from the names of the files"


def _primaries(arms: Sequence[Arm]) -> list[list[str]]:
    names = {arm.name for arm in arms}
    wanted = [["ssa", "no_ssa", "superiority"], ["no_ssa", "full", "non-inferiority"], ["tpp", "no_ssa", "superiority"]]
    return [each for each in wanted if {each[0], each[1]} <= names]


def _rate_check(draft: Draft) -> str:
    if any(planned.kind == "trial" for planned, _ in draft.stages):
        return "tuned"
    return "thirds" if any(arm.slower for arm in draft.arms) else "none"


def _auc_decides(draft: Draft) -> bool:
    """Tell whether the one test set has so many patients of each class that an AUC is decided too."""
    tested = [(scan.label, scan.patient) for scan in draft.parts.repeats[0][0].test]
    if draft.parts.design != "fixed" or not all(isinstance(label, int) for label, _ in tested):
        return False
    classes = draft.design.images.labels.values()
    return all(len({patient for label, patient in tested if label == each}) >= LEAST_OF_CLASS for each in classes)


def draft_lines(draft: Draft) -> Iterator[str]:
    """Yield what a user wants to know before a study runs."""
    yield from draft.notes
    images = draft.design.images
    spacing = "" if images.spacing is None else f" at {_by(images.spacing)} mm"
    network = draft.design.network
    yield f"network: {network.name}, method {network.method}, images of {_by(images.img_size)}{spacing}"
    for each in draft.dropped:
        yield f"left out: {each['name']}: {each['reason']}"
    groups: dict[str, list[float]] = {}
    for planned, stage in (each for each in draft.stages if each[0].kind != "refit"):
        groups.setdefault(stage.title, []).append(planned.seconds)
    for title, seconds in groups.items():
        yield f"{len(seconds)} x {title}, about {sum(seconds) / len(seconds):.0f} s each"
    count = sum(planned.kind != "refit" for planned, _ in draft.stages)
    last = " and a last training on all labels" if draft.arms else ""
    yield f"{count} stages{last}, about {draft.seconds / 3600:.2g} hours"
    if draft.memory is not None:
        yield f"memory: {draft.memory.peak / 1e9:.2f} GB for a step; disk: about {draft.disk / 1e9:.2g} GB for the runs"
    yield from [draft.rates] if draft.rates else []
    yield from [f"provisional: {draft.provisional}"] if draft.provisional else []
    if not draft.arms:
        yield "no arms: without labels to test on there is SSA alone, and no verdict"


def _by(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)
