# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""A real server of the app, driven by MONAI Label's own client."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from monailabel.client.client import MONAILabelClient, MONAILabelClientException

MODEL = "ball_segmentation"
SSA = f"{MODEL}_ssa"
# The server reads ASCII and tqdm's bars come in UTF-8: the worst that a machine's locale does.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "utf-8"}


def client_of(server: Any, tmp_path: Path) -> MONAILabelClient:
    (tmp_path / "client").mkdir(exist_ok=True)
    return MONAILabelClient(server.url, tmpdir=str(tmp_path / "client"))


def trained(client: MONAILabelClient, log: Path, trainer: str = MODEL, **values: Any) -> dict[str, Any]:
    """Trains to the end and gives the task's last status."""
    client.train_start(trainer, values)
    while (status := client.train_status())["status"] in ("SUBMITTED", "RUNNING"):
        time.sleep(0.5)
    assert "end_ts" in status, log.read_text(encoding="utf-8")[-4000:]
    return status


def inferred(client: MONAILabelClient, image: str, **values: Any) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Gives voxels, affine and result of an inference."""
    file, result = client.infer(MODEL, image, values)
    volume = nib.load(file)
    return np.asarray(volume.dataobj).copy(), volume.affine, result


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * np.logical_and(one, other).sum() / max(1, one.astype(bool).sum() + other.astype(bool).sum())


@pytest.mark.slow  # starts a server, and a process for each of four trainings
def test_the_loop_of_labelling(serve: Callable[..., Any], truth: Path, tmp_path: Path) -> None:
    with serve(MONAI_LABEL_AUTO_UPDATE_SCORING="false", **ASCII) as server:
        client = client_of(server, tmp_path)
        info = client.info()
        assert (list(info["models"]), list(info["trainers"])) == ([MODEL], [SSA, MODEL])
        assert info["models"][MODEL]["labels"] == {"ball": 1}
        assert info["models"][MODEL]["config"]["adapter"] == ["latest", "base"]
        assert set(info["strategies"]) == {"first", "random", "epistemic"}
        for strategy in info["strategies"]:
            assert client.next_sample(strategy, {})["id"].startswith("case_0")

        # The geometry is the input's, whatever the orientation.
        for image in ("case_04", "case_05"):
            voxels, affine, result = inferred(client, image)
            original = nib.load(server.studies / f"{image}.nii.gz")
            assert voxels.shape == original.shape
            assert np.allclose(affine, original.affine)
            assert (result["adapter"], result["adapter_version"]) == ("base", 0)
        before = inferred(client, "case_04")[0]

        # An image that is uploaded, or sent along, is segmented too.
        image = str(server.studies / "case_00.nii.gz")
        client.upload_image(image, "uploaded")
        assert client.infer(MODEL, "uploaded", {})[1]["adapter"] == "base"
        assert client.infer(MODEL, "", {}, file=image)[1]["adapter"] == "base"
        delete = urllib.request.Request(f"{server.url}/datastore/?id=uploaded", method="DELETE")
        with urllib.request.urlopen(delete):
            assert client.info()["datastore"]["total"] == 6

        for image in ("case_00", "case_01", "case_02"):
            client.save_label(image, str(truth / f"{image}.nii.gz"))
        assert client.info()["datastore"]["completed"] == 3

        weights = (server.app / "model" / MODEL / "models" / "model.pt").read_bytes()
        assert trained(client, server.log, adapter="site_a", max_epochs=6, val_split=0)["status"] == "DONE"
        first, _, result = inferred(client, "case_04")
        assert (result["adapter"], result["adapter_version"]) == ("site_a", 1)
        mask = np.asarray(nib.load(truth / "case_04.nii.gz").dataobj)
        assert dice(first, mask) > dice(before, mask)

        # SSA changes no inference; the training after it begins from its tensors, not from those of version 1.
        assert trained(client, server.log, SSA, adapter="site_a", max_epochs=2, samples_per_epoch=8)["status"] == "DONE"
        assert client.info()["models"][MODEL]["config"]["adapter"] == ["latest", "site_a", "base"]
        unchanged = inferred(client, "case_04")
        assert unchanged[2]["adapter_version"] == 1
        assert np.array_equal(unchanged[0], first)
        step = {"max_epochs": 1, "samples_per_epoch": 1, "val_split": 0.3}
        assert trained(client, server.log, adapter="site_a", **step)["status"] == "DONE"
        adapters = server.app / "model" / MODEL / "adapters"
        ssa, after = (load_file(adapters / "site_a" / f"00{number}.safetensors") for number in (2, 3))
        base = torch.load(server.app / "model" / MODEL / "models" / "model.pt", weights_only=True)
        for name, tensor in ssa.items():  # one step of AdamW moves a weight by the rate, 1.0e-3, at most
            from_base = (tensor - base[name.replace("encoder:", "vit.")]).abs().max()
            assert 0 < (after[name] - tensor).abs().max() < 1.1e-3 < from_base

        # Requests choose.
        stats = client.info()["train_stats"][MODEL]
        assert [entry.get("labels") for entry in stats["adapters"]["site_a"]] == [3, None, 3]
        assert [entry.get("images") for entry in stats["adapters"]["site_a"]] == [None, 6, None]
        assert stats["best_metric"] == stats["adapters"]["site_a"][-1]["dice"]
        second = inferred(client, "case_04", adapter="latest")
        assert (second[2]["adapter"], second[2]["adapter_version"]) == ("site_a", 3)
        assert not np.array_equal(second[0], first)
        assert np.array_equal(inferred(client, "case_04", adapter="base")[0], before)
        assert np.array_equal(inferred(client, "case_04", adapter="site_a")[0], second[0])

        # Undo gives back exactly what there was; the files stay.
        assert trained(client, server.log, adapter="site_a", undo=True)["status"] == "DONE"
        undone = inferred(client, "case_04", adapter="site_a")
        assert undone[2]["adapter_version"] == 1
        assert np.array_equal(undone[0], first)
        kept = [*(f"00{number}.safetensors" for number in (1, 2, 3)), "history.json"]
        assert sorted(path.name for path in (adapters / "site_a").iterdir()) == kept
        assert (server.app / "model" / MODEL / "models" / "model.pt").read_bytes() == weights


@pytest.mark.slow  # starts a server, which scores all volumes in another process
def test_what_would_leave_the_studies_is_refused(untrained_server: Any, truth: Path, tmp_path: Path) -> None:
    server, client = untrained_server, client_of(untrained_server, tmp_path)
    image, label = str(server.studies / "case_00.nii.gz"), str(truth / "case_00.nii.gz")
    assert f"Uvicorn running on {server.url} " in server.log.read_text(encoding="utf-8")  # this computer only
    around = {str(path) for folder in (tmp_path, server.studies.parent) for path in folder.iterdir()}
    refused: list[Callable[[], Any]] = [
        lambda: client.infer(MODEL, "no_such_case", {}),
        lambda: client.infer(MODEL, image, {}),
        lambda: client.infer(MODEL, "case_00", {"image": image}),
        lambda: client.infer(MODEL, "case_00", {"adapter": "no_such_site"}),
        lambda: client.upload_image(image, "../outside"),
        lambda: client.upload_image(image, str(tmp_path / "outside")),
        lambda: client.save_label("../outside", label),
        lambda: client.save_label("no_such_case", label),
        lambda: client.save_label("case_00", label, tag="../../outside"),
    ]
    for request in refused:
        with pytest.raises(MONAILabelClientException, match="Status: 40[04]"):
            request()
    assert {str(path) for folder in (tmp_path, server.studies.parent) for path in folder.iterdir()} == around
    assert client.info()["datastore"]["total"] == 6

    assert trained(client, server.log, adapter="site_a")["status"] == "ERROR"  # no label yet
    with pytest.raises(MONAILabelClientException, match="field .*adapter"):
        client.train_start(SSA, {"adapter": "../x"})
    assert client.info()["models"][MODEL]["config"]["adapter"] == ["latest", "base"]


@pytest.mark.slow  # waits for the scores
def test_the_most_uncertain_volume_comes_first(untrained_server: Any, tmp_path: Path) -> None:
    server, client = untrained_server, client_of(untrained_server, tmp_path)
    scores: dict[str, float] = {}
    while len(scores) < 6:
        time.sleep(0.5)
        objects = json.loads((server.studies / "datastore_v2.json").read_text() or "{}").get("objects", {})
        infos = {name: entry["image"]["info"] for name, entry in objects.items()}
        scores = {name: info["epistemic_entropy"] for name, info in infos.items() if "epistemic_entropy" in info}
    ordered = sorted(scores, key=lambda name: (-scores[name], name))
    given = [client.next_sample("epistemic", {})["id"] for _ in range(6)]
    assert given == ordered
    assert all(0 < score < float(torch.log(torch.tensor(2.0))) for score in scores.values())
