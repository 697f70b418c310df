# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""MONAI Label's own app for bundles, unchanged and offline, infers with a bundle and trains it."""

from __future__ import annotations

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

MODEL = "ball_segmentation"
SHIM = Path(__file__).resolve().parents[2] / "monai_essa" / "label" / "torchvision_operators.py"


@pytest.fixture
def sample_app(bundle: Path, tmp_path: Path) -> Path:
    """The app as MONAI Label ships it, with the bundle in its folder model/."""
    options = ("apps", "--download", "--name", "monaibundle", "--output", str(tmp_path))
    subprocess.run([sys.executable, "-m", "monailabel.main", *options], check=True, capture_output=True)
    shutil.copytree(bundle, tmp_path / "monaibundle" / "model" / MODEL)
    return tmp_path / "monaibundle"


@pytest.fixture
def started(tmp_path: Path) -> str:
    """A PYTHONPATH by which every process can import torchvision beside a CPU build of torch, as our app does."""
    (tmp_path / "site").mkdir()
    shutil.copy(SHIM, tmp_path / "site" / "sitecustomize.py")
    with open(tmp_path / "site" / "sitecustomize.py", "a", encoding="utf-8") as file:
        file.write("\n\ndeclare_operators()\n")
    return f"{tmp_path / 'site'}:{SHIM.parents[2]}"


@pytest.mark.slow
def test_the_unchanged_app_infers_and_trains(
    sample_app: Path, studies: Path, truth: Path, started: str, open_server: Callable[..., Any], tmp_path: Path
) -> None:
    options = ["--app", sample_app, "--studies", studies, "--host", "127.0.0.1", "--conf", "models", MODEL]
    options += ["--conf", "zoo_source", "local", "--conf", "sam2", "false"]
    command = [sys.executable, "-m", "monailabel.main", "start_server", *map(str, options)]
    (tmp_path / "server").mkdir()
    log = tmp_path / "server" / "server.log"
    # PYTHONUTF8: the app cannot read tqdm's bars in the locale of every machine.
    with open_server(command, sample_app, studies, log, PYTHONPATH=started, PYTHONUTF8="1") as server:
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
        client.train_start(MODEL, {"max_epochs": 12, "val_split": 0.5})
        while (status := client.train_status())["status"] in ("SUBMITTED", "RUNNING"):
            time.sleep(0.5)
        assert status["status"] == "DONE", log.read_text(encoding="utf-8")[-4000:]
        after = np.asarray(nib.load(client.infer(MODEL, "case_04", {})[0]).dataobj)
        assert not np.array_equal(after, before["case_04"])
    models = sample_app / "model" / MODEL / "models"
    assert (models / "model_000.pt").read_bytes() != (models / "model.pt").read_bytes()
