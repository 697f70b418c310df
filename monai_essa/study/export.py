# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a study hands over: a bundle, the adapter, its folder for the hub, a model card and the report.

The network is one more training of the chosen arm, on all labels. It was tested by nobody: its stated performance is
that of the arm in the study, which verdict.json has corrected for the choice. Nothing here names a patient or a folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai_essa.adapters.hub.card import CardFacts, model_card
from monai_essa.adapters.hub.folder import export_hub
from monai_essa.adapters.record import read_header
from monai_essa.bundling.copy import BundleVariant, copy_bundle
from monai_essa.bundling.folder import bundle_folder
from monai_essa.evaluation.run_scores import DICE
from monai_essa.files import folder_written_whole, write_text_whole
from monai_essa.licence import check_permission
from monai_essa.report.model_card import METRIC_IDS
from monai_essa.report.study.folder import StudyFolder, read_study

__all__ = ["export_study", "study_card_facts"]

_ADAPTER = "adapter.safetensors"
_WITHOUT_BUNDLE = (
    "`model.pt` holds the merged weights of the network that `overlay.yaml` builds over `train.yaml` of the bundle "
    "essa_{task}. The overlay names code of its own, which has to be on the path of Python; a bundle for MONAI alone "
    "cannot hold it."
)


def export_study(folder: Path, arm: str, run: Path, permission: str | None = None) -> Path:
    """Make ``export`` in the folder of a study, unless it is there.

    - ``adapted_segmentation`` or ``adapted_classification``: a bundle with the weights, for every verb of MONAI and for
      MONAI Label, as ``monai-essa bundles copy --run`` makes it;
    - ``adapter.safetensors``, and the same as a folder for the Hugging Face hub, ``hub``;
    - ``README.md``: the model card;
    - ``report.html``, if the study has one.

    A study with an overlay of the user has no such bundle, since its configs name code that a bundle does not hold:
    ``model.pt`` and ``overlay.yaml`` are there instead, and the model card says how they belong together.

    Where the licence of the base forbids to share modified weights and there is no permission, the bundle and the
    folder for the hub are left out; the model card says so.

    Args:
        folder: of the study, with plan.yaml and verdict.json.
        arm: name of the arm that was trained on all labels.
        run: folder of that finished run.
        permission: who allowed to share weights that derive from the base, and when.

    Returns:
        The folder; it appears only when complete.

    Raises:
        FileNotFoundError: if the study has no plan, or the run no adapter file or model.pt.
        ValueError: if the run is not finished or not of this task, or verdict.json exports another arm.
    """
    study, target = read_study(folder), folder / "export"
    if target.is_dir():
        return target
    facts = study_card_facts(study, arm, permission)
    header = read_header(run / _ADAPTER)
    refusal = _why_unshared(header.record.get("base"), permission)
    with folder_written_whole(target) as partial:
        partial.mkdir()
        shutil.copyfile(run / _ADAPTER, partial / _ADAPTER)
        if refusal:
            card = model_card(header, facts)
            write_text_whole(partial / "README.md", f"{card}\n## Not exported\n\n{refusal}\n")
        else:
            export_hub(run, partial / "hub", facts)
            shutil.copyfile(partial / "hub" / "README.md", partial / "README.md")
            _add_network(study, run, partial, facts)
        if (folder / "report.html").is_file():
            shutil.copyfile(folder / "report.html", partial / "report.html")
    return target


def _add_network(study: StudyFolder, run: Path, export: Path, facts: CardFacts) -> None:
    """Add the whole network: a bundle, or its weights with the overlay that says how it is built."""
    task = study.protocol["task"]
    overlay = study.path / "overlays" / f"essa_{task}.yaml"
    if not overlay.is_file():
        said = "\n".join(f"- {line}" for line in (*facts.performance, *facts.data))
        variant = BundleVariant(f"adapted_{task}", run=run, permission=facts.permission, performance=said)
        copy_bundle(bundle_folder(f"essa_{task}"), export, variant)
        return
    shutil.copyfile(run / "model.pt", export / "model.pt")
    shutil.copyfile(overlay, export / "overlay.yaml")
    card = (export / "README.md").read_text(encoding="utf-8")
    write_text_whole(export / "README.md", f"{card}\n## The whole network\n\n{_WITHOUT_BUNDLE.format(task=task)}\n")


def study_card_facts(study: StudyFolder, arm: str, permission: str | None = None) -> CardFacts:
    """Return what the model card of an exported arm says about the study.

    Args:
        study: the folder.
        arm: name of the arm.
        permission: who allowed to share weights that derive from the base.

    Raises:
        ValueError: if the verdict exports another arm.
    """
    exported = study.exported or {}
    if exported and exported.get("name") != arm:
        raise ValueError(
            f"{study.path / 'verdict.json'}: expected the exported arm {exported.get('name')!r}, got {arm!r}; train "
            "the one that the verdict names on all labels"
        )
    metric = str(exported.get("metric", study.protocol.get("metric", "")))
    return CardFacts(
        title=f"{study.title(arm)}, for {study.protocol.get('task', 'a task')} at one site",
        performance=tuple(_performance(study, exported, metric)),
        metrics=(METRIC_IDS.get(metric, "brier_score"),) if _is_number(exported.get("mean")) else (),
        data=tuple(_data(study)),
        permission=permission,
    )


def _performance(study: StudyFolder, exported: Mapping[str, Any], metric: str) -> Iterator[str]:
    if not _is_number(exported.get("mean")):
        yield "Not known: the study has no score of this arm that could be stated."
        return
    low, high, before = (exported.get(name) for name in ("low", "high", "uncorrected"))
    interval = f" (95 % interval {low:.3f} to {high:.3f})" if _is_number(low) and _is_number(high) else ""
    yield f"Expected on a new patient of this site: {exported['mean']:.3f}{interval}, {metric}."
    repeats, patients = study.protocol.get("repeats"), study.protocol.get("patients")
    times = "1 repeat" if repeats == 1 else f"{repeats} repeats"
    yield f"Estimated on {patients} tested patients over {times} of the training ({_design(study)})."
    if _is_number(before) and before != exported["mean"]:
        yield f"Corrected for choosing this arm among several by the same scores; uncorrected {before:.3f}."
    if exported.get("reason"):
        yield f"Why this arm: {exported['reason']}."
    ahead = study.floor_ahead(metric == DICE)
    if ahead is not None:
        yield f"Caution: {ahead[0]}, which trains no network, has a better mean in the study ({ahead[1]:.3f})."
    yield "The weights here are of one more training, on all labelled patients, which itself was not tested."
    if reason := study.protocol.get("provisional"):
        yield f"The study is provisional: {reason}."


def _data(study: StudyFolder) -> Iterator[str]:
    protocol, images = study.protocol, study.images
    if protocol.get("labels") is not None:
        yield f"In the study, an arm was trained on {protocol['labels']} labelled patients."
    if protocol.get("unlabeled") is not None:
        yield f"Self-supervised adaptation saw {protocol['unlabeled']} scans without their labels."
    if protocol.get("base"):
        yield f"Base: {protocol['base']}."
    if images.get("spatial_dims"):
        yield f"Images of {images['spatial_dims']} dimensions with {images.get('in_channels', 1)} channel(s)."


def _design(study: StudyFolder) -> str:
    designs = {
        "fixed": "one fixed test set",
        "folds": "folds by patient, cross-validated",
        "leave-one-out": "each patient left out once",
    }
    return designs.get(str(study.protocol.get("design")), "design not stated")


def _why_unshared(origin: Mapping[str, Any] | None, permission: str | None) -> str:
    try:
        check_permission(origin, permission, "the export")
    except ValueError as error:
        return str(error)
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
