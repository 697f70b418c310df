# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What leaves a site says the licence of its base, and a base without derivatives asks for a permission."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from monai_essa import load_weights
from monai_essa.bundling.folder import bundle_folder
from monai_essa.bundling.weights import network_of_config
from monai_essa.weights.families import origin_of
from monai_essa.weights.family_files import family_named

PERMISSION = "mail of the authors, 2 March"


def stated(path: Path, family: str) -> None:
    """Let a file of torch.save say that it derives from a family, as a stage does."""
    state = torch.load(path, weights_only=True)
    state._metadata = {"": {"version": 1, "origin": dict(origin_of(family_named(family), 64 * "a"))}}
    torch.save(state, path)


@pytest.fixture
def run(segmentation_runs, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(segmentation_runs[0], tmp_path / "run"))


def copied(monai_essa, run: Path, *more: str):
    given = monai_essa("bundles", "copy", "essa_segmentation", run.parent, "--name", "ball", "--run", run, *more)
    return given, run.parent / "ball"


def test_a_bundle_with_weights_says_their_licence_before_its_own(monai_essa, run: Path) -> None:
    stated(run / "model.pt", "mae")
    given, folder = copied(monai_essa, run)
    assert given.code == 0
    licence = (folder / "LICENSE").read_text(encoding="utf-8")
    assert licence.index("CC BY-NC 4.0 (NC: no commercial use") < licence.index("Apache License")
    data = (folder / "docs" / "data_license.txt").read_text(encoding="utf-8")
    assert "CC BY-NC 4.0" in data and "He et al., Masked autoencoders" in data
    network = network_of_config([folder / "configs" / "inference.yaml"], {})
    assert load_weights(network, folder / "models" / "model.pt").family == "mae"


def test_a_bundle_of_an_unknown_base_says_that_its_licence_is_unknown(monai_essa, run: Path) -> None:
    given, folder = copied(monai_essa, run)
    assert given.code == 0
    assert "licence   unknown: ask the authors" in (folder / "LICENSE").read_text(encoding="utf-8")


def test_a_bundle_without_derivatives_needs_a_permission(monai_essa, run: Path) -> None:
    stated(run / "model.pt", "suprem")
    given, folder = copied(monai_essa, run)
    assert given.code == 1 and not folder.exists()
    assert len(given.err.splitlines()) == 1 and "--permission TEXT" in given.err and "CC BY-NC-ND 4.0" in given.err

    given, folder = copied(monai_essa, run, "--permission", PERMISSION)
    assert given.code == 0 and PERMISSION in (folder / "LICENSE").read_text(encoding="utf-8")
    network = network_of_config([folder / "configs" / "inference.yaml"], {})
    origin = load_weights(network, folder / "models" / "model.pt").origin
    assert origin is not None and origin["permission"] == PERMISSION


def test_a_bundle_without_weights_has_its_own_licence_alone(monai_essa, tmp_path: Path) -> None:
    assert monai_essa("bundles", "copy", "essa_segmentation", tmp_path, "--name", "ball").code == 0
    ours = bundle_folder("essa_segmentation") / "LICENSE"
    assert (tmp_path / "ball" / "LICENSE").read_bytes() == ours.read_bytes()


def test_merging_needs_the_permission_too(monai_essa, files, tmp_path: Path) -> None:
    base, out = Path(shutil.copy(files.base, tmp_path / "vit.pt")), tmp_path / "model.pt"
    stated(base, "3dino")
    width = ["--args", "img_size=[32,32,32]", "hidden_size=48", "mlp_dim=96", "num_heads=4"]
    command = ("adapter", "merge", files.adapters[0], "--base", base, "--bundle", "essa_ssa", "--out", out)
    given = monai_essa(*command, *width)
    assert given.code == 1 and not out.exists() and "--permission TEXT" in given.err
    given = monai_essa(*command, "--permission", PERMISSION, *width)
    assert given.code == 0
    network = network_of_config(
        [bundle_folder("essa_ssa") / "configs" / "train.yaml"],
        {"img_size": [32, 32, 32], "hidden_size": 48, "mlp_dim": 96, "num_heads": 4},
    )
    origin = load_weights(network, out).origin
    assert origin is not None and (origin["family"], origin["permission"]) == ("3dino", PERMISSION)
