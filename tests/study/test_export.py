# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a study hands over runs without the study, states the corrected performance, and names nobody."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import pytest
import torch

from monai_essa.adapters.record import read_header
from monai_essa.bundling.predict import Prediction, predict
from monai_essa.study.export import export_study
from tests.cli.conftest import files, finished_run, segmentation_runs, volumes
from tests.report.study.conftest import PATIENT, fabricated_study

__all__ = ["fabricated_study", "files", "finished_run", "segmentation_runs", "volumes"]


@pytest.fixture
def study(fabricated_study: Callable[..., Path], segmentation_runs: tuple[Path, Path]) -> Path:
    """A study whose verdict exports "SSA, then PEFT", and the finished run of that arm on all labels."""
    folder = fabricated_study("segmentation")
    shutil.copytree(segmentation_runs[0], folder / "runs" / "refit")
    return folder


def change_exported(folder: Path, **changes: object) -> None:
    verdict = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    verdict["exported"] = verdict["exported"] | changes
    (folder / "verdict.json").write_text(json.dumps(verdict), encoding="utf-8")


def test_the_bundle_predicts_what_the_run_does(study: Path, volumes: Path, tmp_path: Path) -> None:
    run = study / "runs" / "refit"
    (study / "report.html").write_text("the page", encoding="utf-8")
    export = export_study(study, "ssa", run)
    assert sorted(path.name for path in export.iterdir()) == [
        "README.md",
        "adapted_segmentation",
        "adapter.safetensors",
        "hub",
        "report.html",
    ]
    bundle = export / "adapted_segmentation"
    ours, theirs = (torch.load(path, weights_only=True) for path in (bundle / "models" / "model.pt", run / "model.pt"))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    (mask,) = predict(Prediction(str(bundle), {}), [volumes / "case3.nii.gz"], tmp_path / "masks")
    assert nib.load(mask).shape == nib.load(volumes / "case3.nii.gz").shape
    assert read_header(export / "hub").record == read_header(run).record
    assert export_study(study, "ssa", run) == export  # a second call finds it made


def test_nothing_in_it_names_a_patient_or_a_folder(study: Path, volumes: Path) -> None:
    export = export_study(study, "ssa", study / "runs" / "refit")
    for path in (path for path in export.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for name in (b"case3", PATIENT.encode(), str(volumes).encode(), str(study).encode()):
            assert name not in content, f"{path.name} holds {name!r}"


def test_the_card_states_the_corrected_performance(study: Path) -> None:
    change_exported(study, mean=0.7654, low=0.7, high=0.8, uncorrected=0.79)
    card = (export_study(study, "ssa", study / "runs" / "refit") / "README.md").read_text(encoding="utf-8")
    assert "Expected on a new patient of this site: 0.765 (95 % interval 0.700 to 0.800)" in card
    assert "uncorrected 0.790" in card and "was not tested" in card and "metrics:\n- dice" in card
    assert "Estimated on 12 tested patients over 3 repeats of the training (one fixed test set)." in card


def test_with_an_overlay_of_the_user_the_weights_come_with_it_instead_of_a_bundle(study: Path) -> None:
    (study / "overlays").mkdir()
    (study / "overlays" / "essa_segmentation.yaml").write_text("lr: 1.0e-3\n", encoding="utf-8")
    run = study / "runs" / "refit"
    export = export_study(study, "ssa", run)
    assert {path.name for path in export.iterdir()} == {
        "README.md",
        "adapter.safetensors",
        "hub",
        "model.pt",
        "overlay.yaml",
    }
    assert (export / "model.pt").read_bytes() == (run / "model.pt").read_bytes()
    card = (export / "README.md").read_text(encoding="utf-8")
    assert "network that `overlay.yaml` builds over `train.yaml` of the bundle essa_segmentation" in card


def test_an_arm_that_the_verdict_does_not_export_is_refused(study: Path) -> None:
    with pytest.raises(ValueError, match="expected the exported arm 'ssa', got 'no_ssa'"):
        export_study(study, "no_ssa", study / "runs" / "refit")
    assert not (study / "export").exists()


def test_a_base_without_derivatives_is_not_shared_without_permission(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbid(origin: object, permission: str | None, what: str) -> None:
        raise ValueError(f"{what}: its base is under CC BY-NC-ND 4.0; give --permission TEXT")

    monkeypatch.setattr("monai_essa.study.export.check_permission", forbid)
    export = export_study(study, "ssa", study / "runs" / "refit")
    assert sorted(path.name for path in export.iterdir()) == ["README.md", "adapter.safetensors"]
    assert "## Not exported" in (export / "README.md").read_text(encoding="utf-8")


def test_a_run_that_is_missing_leaves_nothing_behind(study: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"adapter\.safetensors"):
        export_study(study, "ssa", study / "runs" / "none")
    assert not (study / "export").exists()
