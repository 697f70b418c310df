# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""MONAI Label's own app for bundles, unchanged and offline, infers and trains, by the commands of docs/label.md."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from monailabel.client.client import MONAILabelClient

MODEL = "spleen_segmentation"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def started(bundle: Path, studies: Path, tmp_path: Path) -> tuple[list[str], str]:
    """The command that starts the app and the PYTHONPATH that it needs, after the other lines of docs/label.md."""
    page = (ROOT / "docs" / "label.md").read_text(encoding="utf-8")
    *lines, start = page.partition("### The unchanged")[2].partition("```bash\n")[2].partition("\n```")[0].splitlines()
    shutil.copytree(bundle, tmp_path / MODEL)
    for name, place in {"label-env": Path(sys.prefix), "monai_essa": ROOT / "monai_essa"}.items():
        (tmp_path / name).symlink_to(place)
    script = "\n".join(["set -e", *lines, 'printf %s "$PYTHONPATH"'])
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True)
    command = shlex.split(
        start.replace(" monaibundle ", f" {tmp_path / 'monaibundle'} ").replace(" scans ", f" {studies} ")
    )
    return [sys.executable, *command[1:]], f"{done.stdout.splitlines()[-1]}:{ROOT}"


@pytest.mark.slow  # starts a server, and a process that trains
def test_the_unchanged_app_infers_and_trains(
    started: tuple[list[str], str], studies: Path, truth: Path, open_server: Callable[..., Any], tmp_path: Path
) -> None:
    command, python_path = started
    sample_app = tmp_path / "monaibundle"
    (tmp_path / "server").mkdir()
    log = tmp_path / "server" / "server.log"
    with open_server(command, sample_app, studies, log, PYTHONPATH=python_path, PYTHONUTF8="1") as server:
        (tmp_path / "client").mkdir()
        client = MONAILabelClient(server.url, tmpdir=str(tmp_path / "client"))
        before = {}
        for image in ("case_04", "case_05"):
            result, original = nib.load(client.infer(MODEL, image, {})[0]), nib.load(studies / f"{image}.nii.gz")
            assert result.shape == original.shape
            assert np.allclose(result.affine, original.affine)
            before[image] = np.asarray(result.dataobj).copy()

        for image in ("case_00", "case_01"):
            client.save_label(image, str(truth / f"{image}.nii.gz"))
        client.train_start(MODEL, {"max_epochs": 4, "val_split": 0.5})
        while (status := client.train_status())["status"] in ("SUBMITTED", "RUNNING"):
            time.sleep(0.5)
        assert status["status"] == "DONE", log.read_text(encoding="utf-8")[-4000:]
        after = np.asarray(nib.load(client.infer(MODEL, "case_04", {})[0]).dataobj)
        assert not np.array_equal(after, before["case_04"])
    models = sample_app / "model" / MODEL / "models"
    assert (models / "model_000.pt").read_bytes() != (models / "model.pt").read_bytes()
