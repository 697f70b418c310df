# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Every command and every Python block of the pages runs, in its short form, on the smallest real data.

`make test` runs the path from scans to predictions, which has every command but `cost` and `plan` (tests/cli has them),
and parses the others (test_parsed_commands.py, test_shown_names.py).
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from monai.networks.nets import ViT
from safetensors.torch import load_file

from tests.docs.shown_commands import ROOT, blocks, run_page, run_short

PATH = (
    "docs/how-to/own-data.md",
    "docs/how-to/segmentation.md",
    "docs/how-to/adapters.md",
)  # one folder, in this order
OTHERS = (
    "README.md",
    "docs/how-to/classification.md",
    "docs/how-to/own-method.md",
    "docs/how-to/own-pretext-task.md",
    "docs/get-started.md",
    "docs/how-to/cost-and-lean.md",
    "docs/how-to/dinov2.md",
    "docs/index.md",
    "CONTRIBUTING.md",
)
ELSEWHERE = {
    "docs/studies/hippocampus.md": "tests/docs/test_studies.py",
    "docs/studies/verdicts.md": "hours: tests/study/test_run.py, tests/benchmarks/test_check_study.py",
    "docs/studies/chest-x-rays.md": "tests/docs/test_studies.py",
    "docs/label.md": "servers: make test-label; what comes before them: tests/bundling/test_bundle_copy.py",
    "docs/how-to/adapt.md": "tests/study/test_run.py; test_parsed_commands.py reads the options",
    "docs/how-to/compare.md": "tests/cli/test_compare_command.py; the other commands are those of segmentation.md",
    "docs/how-to/train-better.md": "tests/bundles/test_better_training.py runs each key; the commands are parsed",
    "docs/how-to/cluster.md": "tests/docs/test_cluster.py reads it, tests/bundles/test_multi_gpu.py runs processes",
    "docs/studies/federated.md": "tests/federated runs the job, tests/bundles/test_federated_round.py the round",
    "docs/studies/objectives.md": "hours: tests/study/test_run.py; test_parsed_commands.py reads the options",
    "docs/how-to/report.md": "tests/report/test_run_report.py and tests/report/study, on studies and runs of their own",
    "docs/how-to/own-encoder.md": "tests/bases: its descriptions adapt LiteMedSAM's TinyViT and ViTs of timm",
    "docs/studies/lite-medsam.md": "tests/bases/test_lite_medsam.py, with the packages of make test-bases",
    "docs/how-to/public-weights.md": "tests/weights/test_family_files.py and tests/evaluation/test_probe_scans.py",
    "docs/concepts/self-distillation.md": "tests/pretext/distillation/test_dinov2_training.py, which it names",
    "docs/benchmark.md": "takes an hour: tests/benchmarks/test_benchmark.py makes a part of the page",
}
KEPT = {"scans", "labels", "vit_b.pt", "datalist.json", "runs", "last_blocks.py"}


@pytest.fixture
def site(hippocampus_tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the pages start from: scans, labels, and weights of a ViT."""
    for source, target in (("imagesTr", "scans"), ("labelsTr", "labels")):
        (tmp_path / target).mkdir()
        for number, file in enumerate(sorted((hippocampus_tiny / source).glob("*.nii.gz")), start=1):
            shutil.copy(file, tmp_path / target / f"patient_{number:03d}.nii.gz")
    torch.save(ViT(1, 32, 16, 24, 48, 12, 4, qkv_bias=True).state_dict(), tmp_path / "vit_b.pt")
    for name in ("last_blocks", "denoising"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def start_afresh(folder: Path) -> None:
    """Another page may make the same files again."""
    for path in folder.iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(folder / "runs" / "my_site", ignore_errors=True)  # two pages have a site of that name


def test_every_page_with_blocks_is_run() -> None:
    pages = ["README.md", "CONTRIBUTING.md", *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
    shown = {page for page in pages if re.search("^```(bash|python)", (ROOT / page).read_text("utf-8"), re.MULTILINE)}
    assert shown == {*PATH, *OTHERS, *ELSEWHERE}


def test_a_line_that_nobody_runs_is_refused(tmp_path: Path) -> None:
    run_short("pip install monai  # listed, with a reason\n", tmp_path, tmp_path)
    with pytest.raises(AssertionError, match="no test runs the line 'rm -r scans'"):
        run_short("rm -r scans\n", tmp_path, tmp_path)


@pytest.mark.full
@pytest.mark.slow  # three trainings, an evaluation, predictions and two exports, by the commands of three pages
def test_the_path_from_scans_to_predictions(site: Path) -> None:
    for page in PATH:
        run_page(page, site)
    learned = load_file(site / "runs" / "ssa" / "adapter.safetensors")
    assert len(learned) == 24 and all(".out_proj." in name for name in learned)
    assert len(list((site / "masks").rglob("*.nii.gz"))) == 16
    assert (site / "runs" / "segmentation" / "test" / "val_mean_dice_raw.csv").is_file()
    assert torch.load(site / "adapted_vit.pt").keys() == torch.load(site / "vit_b.pt").keys()
    assert all((site / name).is_file() for name in ("model.ts", "model.pt2"))


@pytest.mark.full
@pytest.mark.slow  # eight pages, with six trainings
def test_the_other_pages(site: Path) -> None:
    (method,) = blocks("CONTRIBUTING.md", "python")
    (site / "last_blocks.py").write_text(method, encoding="utf-8")
    for page in OTHERS:
        start_afresh(site)
        run_page(page, site)
    metrics = json.loads((site / "runs" / "classes" / "test" / "metrics.json").read_text(encoding="utf-8"))
    assert "auc" in metrics["metrics"]
    learned = load_file(site / "runs" / "last_blocks" / "adapter.safetensors")
    assert {name.split(".")[1] for name in learned} == {"10", "11"}
    assert (site / "runs" / "denoising" / "pretext_head.safetensors").is_file()
