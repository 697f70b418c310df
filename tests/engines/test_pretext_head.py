# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The pretext head in a file of its own."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from monai.networks.nets import ViT
from safetensors.torch import load_file

from monai_essa.engines import PretextHead, load_pretext_head, parameter_groups, start_pretext_head
from monai_essa.pretext import MAE, SimMIM


def vit() -> ViT:
    torch.manual_seed(0)
    return ViT(1, 32, 16, 24, 48, 1, 4, spatial_dims=2)


def test_head_moves_to_a_fresh_objective_without_the_encoder(tmp_path):
    objective, path = SimMIM(vit()), tmp_path / "head.safetensors"
    trainer = Engine(lambda engine, batch: None)
    PretextHead(objective, path).attach(trainer)
    trainer.run([0], max_epochs=1)
    assert load_file(path) and not any(name.startswith("encoder.") for name in load_file(path))
    fresh = load_pretext_head(SimMIM(vit()), path)
    mask = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(fresh(images, generator=mask[0])["loss"], objective(images, generator=mask[1])["loss"])


def test_head_of_another_objective_is_refused(tmp_path):
    PretextHead(SimMIM(vit()), tmp_path / "head.safetensors")(Engine(lambda engine, batch: None))
    with pytest.raises(ValueError, match="head.safetensors was written by another objective"):
        load_pretext_head(MAE(vit()), tmp_path / "head.safetensors")


@pytest.mark.parametrize(
    ("objective", "differ"),
    [
        (lambda: SimMIM(ViT(1, 32, 8, 24, 48, 1, 4, spatial_dims=2), mask_unit=16), r"'head.predict.bias' is \(256,\)"),
        (lambda: SimMIM(ViT(1, 32, 16, 48, 48, 1, 4, spatial_dims=2)), r"'head.predict.weight' is \(256, 24\) there"),
        (lambda: MAE(vit()), "'decoder.blocks.0.* is none there and .* here"),
    ],
)
def test_a_head_that_does_not_fit_is_refused_in_one_line_and_nothing_is_loaded(head_file, objective, differ):
    fresh = objective()
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    with pytest.raises(ValueError, match=f"^[^\n]*head.safetensors was written by another objective: {differ}[^\n]*$"):
        load_pretext_head(fresh, head_file)
    assert all(torch.equal(tensor, before[name]) for name, tensor in fresh.state_dict().items())


def test_a_damaged_head_is_refused_in_one_line(head_file):
    head_file.write_bytes(head_file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"^[^\n]*head.safetensors is damaged[^\n]*copy it again$"):
        load_pretext_head(SimMIM(vit()), head_file)


def test_missing_head_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no pretext head at"):
        load_pretext_head(SimMIM(vit()), tmp_path / "head.safetensors")


@pytest.fixture
def head_file(tmp_path):
    torch.manual_seed(1)
    PretextHead(SimMIM(vit()), tmp_path / "head.safetensors")(Engine(lambda engine, batch: None))
    return tmp_path / "head.safetensors"


def test_a_frozen_head_holds_the_files_values_and_is_in_no_parameter_group(head_file):
    objective = start_pretext_head(SimMIM(vit()), head_file, freeze=True)
    assert all(torch.equal(objective.state_dict()[name], tensor) for name, tensor in load_file(head_file).items())
    head = {id(parameter) for parameter in objective.head_parameters()}
    learning = {id(parameter) for group in parameter_groups(objective, 1.0e-3) for parameter in group["params"]}
    assert head and learning == {id(parameter) for parameter in objective.encoder.parameters()}


def test_a_head_learns_unless_it_is_frozen(head_file):
    for path in (None, head_file):
        objective = start_pretext_head(SimMIM(vit()), path)
        assert all(parameter.requires_grad for parameter in objective.head_parameters())


def test_a_random_head_is_not_frozen():
    with pytest.raises(ValueError, match="freeze_pretext_head would keep a random head: give pretext_head=FILE"):
        start_pretext_head(SimMIM(vit()), freeze=True)


def test_the_text_false_does_not_freeze(head_file):
    with pytest.raises(TypeError, match="freeze_pretext_head: expected True or False, got 'false'"):
        start_pretext_head(SimMIM(vit()), head_file, freeze="false")
