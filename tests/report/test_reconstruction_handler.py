# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Pictures of reconstructions."""

from __future__ import annotations

import numpy as np
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.networks.nets import ViT
from PIL import Image

from monai_essa.pretext import MAE
from monai_essa.report.reconstructions import ReconstructionPng, write_reconstructions


def objective() -> MAE:
    torch.manual_seed(0)
    return MAE(ViT(1, 32, 16, 24, 48, 1, 4)).train()


def items(count: int, spacing: float = 1.0) -> list[dict[str, MetaTensor]]:
    affine = torch.diag(torch.tensor([1.0, 1.0, spacing, 1.0]))
    return [{"image": MetaTensor(torch.rand(1, 32, 32, 32), affine=affine)} for _ in range(count)]


def test_picture_after_each_epoch_shows_the_same_mask(tmp_path):
    net = objective()
    trainer = Engine(lambda engine, batch: None)
    path = tmp_path / "run" / "reconstruction.png"
    ReconstructionPng(net, items(1), path, seed=4).attach(trainer)
    trainer.run([0], max_epochs=1)
    first = np.asarray(Image.open(path))
    trainer.run([0], max_epochs=2)
    assert np.array_equal(np.asarray(Image.open(path)), first)
    assert net.training and first.std() > 0


def test_one_numbered_picture_for_each_image(tmp_path):
    paths = write_reconstructions(objective(), items(2), tmp_path / "pictures")
    assert [path.name for path in paths] == ["0000.png", "0001.png"]
    assert not np.array_equal(*(np.asarray(Image.open(path)) for path in paths))


def test_a_slice_that_keeps_the_lengths_of_its_volume_is_drawn(tmp_path):
    net = MAE(ViT(1, 32, 16, 24, 48, 1, 4, spatial_dims=2))
    item = {"image": MetaTensor(torch.rand(1, 32, 32), affine=torch.diag(torch.tensor([2.0, 1.0, 5.0, 1.0])))}
    (path,) = write_reconstructions(net, [item], tmp_path)
    assert Image.open(path).size == (3 * 224 + 24, 112 + 26 + 6)


def test_thick_slices_are_drawn_thick(tmp_path):
    flat, thick = (
        np.asarray(Image.open(write_reconstructions(objective(), items(1, mm), tmp_path / str(mm))[0]))
        for mm in (1.0, 3.0)
    )
    assert flat.shape != thick.shape
