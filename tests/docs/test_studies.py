# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The studies run by the commands that their pages show, in their short form on the smallest real data."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.docs.shown_commands import blocks, run_short, short


def tiny_hippocampus(source: Path, folder: Path) -> None:
    """The smallest subset under the names of the whole set, with its domain-shift list."""
    shutil.copytree(source, folder)
    os.chmod(folder, 0o755)
    items = json.loads((folder / "dataset.json").read_text())
    labelled, held_out = items["training"], items["validation"]
    shift = {
        "labels": items["labels"],
        "source": {"training": labelled[:4], "validation": held_out[:1], "test": held_out[1:]},
        "target": {"training_unlabelled_or_fewshot": labelled[4:], "test": held_out[:1]},
    }
    (folder / "dataset_domainshift.json").write_text(json.dumps(shift))


@pytest.mark.full
@pytest.mark.slow  # five trainings and their evaluations
def test_hippocampus_commands_run_in_their_short_form(hippocampus_tiny, tmp_path):
    tiny_hippocampus(hippocampus_tiny, tmp_path / "hippocampus")
    run_short("".join(short(block) for block in blocks("docs/studies/hippocampus.md", "bash")), tmp_path, tmp_path)
    runs = tmp_path / "runs"
    assert (runs / "ssa" / "adapter.safetensors").is_file()
    for name in ("few_ssa", "standard"):
        assert "val_mean_dice" in " ".join(path.name for path in (runs / name / "test").iterdir())


@pytest.mark.full
@pytest.mark.slow  # four trainings and their evaluations
def test_xray_commands_run_in_their_short_form(data_dir, tmp_path):
    shown = "".join(short(block) for block in blocks("docs/studies/chest-x-rays.md", "bash"))
    run_short("monai-essa bundles copy essa_ssa .\n" + shown, data_dir, tmp_path)
    learned = load_file(tmp_path / "runs" / "xray_tpp" / "adapter.safetensors")
    assert learned and all(".lora_" in name for name in learned)
    for name in ("xray_class_tpp", "xray_class_lora"):
        assert (tmp_path / "runs" / name / "test" / "metrics.json").is_file()
