# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A small base, and where a job on it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import ViT

from monai_essa.federated.exchange import Start, read_start
from monai_essa.federated.job import FederatedJob, write_job
from monai_essa.federated.site import FederatedStage

SIZES: dict[str, Any] = {"img_size": [32, 32, 32], "hidden_size": 48, "mlp_dim": 96, "num_heads": 4}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("base") / "vit.pt"
    torch.save(ViT(1, (32, 32, 32), 16, 48, 96, 12, 4, qkv_bias=True).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def job(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job") / "hospitals"
    stage = FederatedStage("essa_ssa", values=SIZES | {"batch_size": 2})
    write_job(FederatedJob(["north", "south", "west"], stage, rounds=2, steps=1), base, folder)
    return folder


@pytest.fixture(scope="session")
def start(job: Path) -> Start:
    return read_start(job / "app" / "start")
