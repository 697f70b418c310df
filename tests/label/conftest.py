# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""A small segmentation bundle with weights, a folder of studies in two orientations, and servers of MONAI Label."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from monai_essa.bundling.copy import BundleVariant, copy_bundle
from monai_essa.bundling.folder import bundle_folder, make_label_folder

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (30, 32, 40)  # of windows of 32 voxels a side: padded along x, two along z
TINY: dict[str, Any] = {
    "img_size": [32, 32, 32],
    "hidden_size": 48,
    "mlp_dim": 96,
    "num_heads": 4,
    "feature_size": 8,
    "labels": {"background": 0, "ball": 1},
}


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    app: Path
    studies: Path
    log: Path
    process: subprocess.Popen[bytes]


def ball(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright ellipsoid in noise (int16), and its label."""
    rng = np.random.default_rng(number)
    centre, radii = np.array(SHAPE) / 2 + rng.uniform(-3, 3, 3), rng.uniform(7, 11, 3)
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    inside = (((grid - centre) / radii) ** 2).sum(-1) < 1
    return (200 + 40 * rng.standard_normal(SHAPE) + 300 * inside).astype(np.int16), inside.astype(np.uint8)


def write_volume(folder: Path, number: int, label: Path | None = None) -> Path:
    """Write case_NN.nii.gz, of odd numbers with axes to the left and the back, and its label beside or elsewhere."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) if number % 2 else np.eye(4)
    affine[:3, 3] = (5, -7, 11)
    image, mask = ball(number)
    path = folder / f"case_{number:02d}.nii.gz"
    nib.save(nib.Nifti1Image(image, affine), path)
    if label is not None:
        nib.save(nib.Nifti1Image(mask, affine), label / path.name)
    return path


@pytest.fixture(scope="session")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the labels of all cases."""
    folder = tmp_path_factory.mktemp("truth")
    for number in range(6):
        write_volume(tmp_path_factory.mktemp("unused"), number, folder)
    return folder


def write_studies(folder: Path) -> Path:
    """Six images without a label; the odd ones lie in LPS orientation, the others in RAS."""
    folder.mkdir()
    for number in range(6):
        write_volume(folder, number)
    return folder


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """Six images without a label, for one test."""
    return write_studies(tmp_path / "studies")


@pytest.fixture
def datastore(studies: Path, truth: Path) -> Any:
    """The studies as the app opens them: two labelled volumes and four without."""
    from monai_essa.label.studies import StudiesFolder  # other tests run without MONAI Label

    final = studies / "labels" / "final"
    final.mkdir(parents=True)
    for name in ("case_00.nii.gz", "case_01.nii.gz"):
        shutil.copy(truth / name, final)
    return StudiesFolder(str(studies))


@pytest.fixture(scope="session")
def trained_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of essa_segmentation that one epoch on two volumes gave weights; tests must not change it."""
    folder = tmp_path_factory.mktemp("bundle")
    items = [
        {"image": str(write_volume(folder, number, labels)), "label": str(labels / f"case_{number:02d}.nii.gz")}
        for number, labels in ((number, tmp_path_factory.mktemp("labels")) for number in (20, 21))
    ]
    configs = bundle_folder("essa_segmentation") / "configs"
    hook = sys.excepthook
    workflow = ConfigWorkflow(
        [str(configs / "train.yaml"), str(configs / "start_random.yaml")],
        logging_file=False,
        workflow_type="train",
        **TINY,
        training_items=items,
        validation_items=items,
        output_dir=str(folder / "run"),
        max_epochs=1,
        cache_rate=0.0,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    sys.excepthook = hook
    variant = BundleVariant("ball_segmentation", {"method": "apla"}, TINY, folder / "run")
    return copy_bundle(bundle_folder("essa_segmentation"), folder, variant)


@pytest.fixture
def bundle(trained_bundle: Path, tmp_path: Path) -> Path:
    """A copy of that bundle for one test."""
    return Path(shutil.copytree(trained_bundle, tmp_path / trained_bundle.name))


@pytest.fixture
def app(bundle: Path, tmp_path: Path) -> Path:
    """An app folder around the bundle."""
    return make_label_folder(tmp_path / "app", [bundle])


@contextmanager
def serving(command: Sequence[str], app: Path, studies: Path, log: Path, **environment: str) -> Iterator[Server]:
    """Run a server on a free port until the block ends; nothing of it reaches the network."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    offline = {"HF_HUB_OFFLINE": "1", "https_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.1"}
    variables = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(log.parent)} | offline | environment
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)], env=variables, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(url, process, log)
        yield Server(url, app, studies, log, process)
    finally:
        process.terminate()
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    while True:
        assert process.poll() is None, log.read_text(encoding="utf-8")[-4000:]
        try:
            with urllib.request.urlopen(f"{url}/info/"):
                return
        except OSError:
            time.sleep(0.5)


def serve_command(app: Path, studies: Path, *options: str) -> list[str]:
    """`monai-essa label start` without its port, in this environment."""
    call = f"main({['label', 'start', str(app), '--studies', str(studies), *options]!r} + sys.argv[1:])"
    return [sys.executable, "-c", f"import sys; from monai_essa.cli import main; {call}"]


@pytest.fixture
def serve(app: Path, studies: Path, tmp_path: Path) -> Callable[..., Any]:
    """Opens `monai-essa label start` on the app and the studies."""

    def open_(**environment: str) -> Any:
        (tmp_path / "server").mkdir(exist_ok=True)
        log = tmp_path / "server" / "server.log"
        return serving(serve_command(app, studies), app, studies, log, **environment)

    return open_


@pytest.fixture(scope="session")
def untrained_server(trained_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests that train nothing; each leaves the studies as they were."""
    folder = tmp_path_factory.mktemp("untrained")
    app, studies = make_label_folder(folder / "app", [trained_bundle]), write_studies(folder / "studies")
    (folder / "server").mkdir()
    with serving(serve_command(app, studies), app, studies, folder / "server" / "server.log") as server:
        yield server


@pytest.fixture
def open_server() -> Callable[..., Any]:
    """Opens any server: command, app folder, studies, log file and environment."""
    return serving


@pytest.fixture
def http(app: Path, studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of the server in this process: the app on the studies, without scoring by itself."""
    from fastapi.testclient import TestClient
    from monailabel.config import settings
    from monailabel.interfaces.utils.app import clear_cache

    sessions, uploads = tmp_path / "sessions", tmp_path / "uploads"
    uploads.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(uploads))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(app)]))
    values = {"APP_DIR": app, "STUDIES": studies, "SESSION_PATH": sessions, "AUTO_UPDATE_SCORING": False}
    for name, value in values.items():
        monkeypatch.setattr(settings, f"MONAI_LABEL_{name}", str(value) if isinstance(value, Path) else value)
        monkeypatch.setenv(f"MONAI_LABEL_{name}", str(value))
    clear_cache()
    from monailabel.app import app as server

    with TestClient(server, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as client:
        yield client
    clear_cache()
