# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What every objective keeps to, over every network that it takes."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn as nn
from monai.data import MetaTensor
from monai.networks.nets import UNETR, SwinUNETR, ViT
from monai.transforms import Compose, LoadImage, NormalizeIntensity, ResizeWithPadOrCrop

from monai_essa.anatomy.blocks import transformer_blocks
from monai_essa.anatomy.parts import dead_parameters, part_of
from monai_essa.pretext import MAE, PatchReconstruction, SimMIM
from tests.forked import run_ranks

PAIRS = [
    *(("mae", net) for net in ("vit", "vit_2d", "vit_perceptron", "vit_class_token", "mae_vit", "unetr", "unetr_2d")),
    *(
        ("simmim", net)
        for net in ("vit", "vit_2d", "vit_perceptron", "vit_class_token", "mae_vit", "unetr", "unetr_2d")
    ),
    *(("simmim", net) for net in ("swin", "swin_2d", "swin_v2_2d")),
    *(
        ("simmim", net)
        for net in ("segresnet", "segresnet_2d", "segresnet_ds", "unet", "unet_2d", "resnet", "densenet_2d")
    ),
    *(("simmim_decoder", net) for net in ("unetr", "unetr_2d", "swin", "swin_2d", "swin_v2_2d", "segresnet")),
]
LIGHT_PAIRS = [("mae", "unetr_2d"), ("simmim", "vit"), ("simmim", "swin_2d"), ("simmim_decoder", "swin_v2_2d")]
every_pair = pytest.mark.parametrize(("kind", "network"), PAIRS)
light_pairs = pytest.mark.parametrize(("kind", "network"), LIGHT_PAIRS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def reached(objective: nn.Module, name: str) -> bool:
    """Whether the objective's gradients should come to this tensor of the network."""
    part = part_of(objective.encoder, name)
    decoded = getattr(objective, "handover", "encoder") == "encoder+decoder" and part == "decoder"
    return (part == "encoder" or decoded) and name not in dead_parameters(objective.encoder)


@every_pair
def test_an_objective_learns_from_visible_voxels_and_shows_what_it_predicts(build_objective, kind, network):
    """One objective for all three, for most of the time goes into it; the function that fails says which."""
    objective, images = build_objective(kind, network)
    shown = figures_have_the_shape_of_the_images(objective, images)
    prediction_does_not_depend_on_masked_voxels(objective, images, shown["mask"].bool())
    gradients_reach_all_that_learns_and_nothing_else(objective, images)


def figures_have_the_shape_of_the_images(objective: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    shown = objective.reconstruct(images, seeded())

    assert set(shown) == {"original", "masked", "prediction", "mask"}
    assert {picture.shape for picture in shown.values()} == {images.shape}
    assert not any(picture.requires_grad for picture in shown.values())
    visible = shown["mask"] == 0
    assert torch.equal(shown["prediction"][visible], images[visible])
    return shown


def prediction_does_not_depend_on_masked_voxels(objective: nn.Module, images: torch.Tensor, mask: torch.Tensor) -> None:
    objective.eval()
    with torch.no_grad():
        predicted = objective.predict(images, seeded()).patches

        other_masked = objective.predict(torch.where(mask, 100 * torch.randn_like(images), images), seeded()).patches
        other_visible = objective.predict(torch.where(mask, images, images + 1), seeded()).patches

    assert torch.equal(other_masked, predicted)
    assert not torch.allclose(other_visible, predicted)
    objective.train()


def gradients_reach_all_that_learns_and_nothing_else(objective: nn.Module, images: torch.Tensor) -> None:
    for name, parameter in objective.encoder.named_parameters():
        parameter.requires_grad_(reached(objective, name) and parameter.requires_grad)
    trainable = {name for name, parameter in objective.named_parameters() if parameter.requires_grad}

    objective(images, generator=seeded())["loss"].backward()

    assert {name for name, parameter in objective.named_parameters() if parameter.grad is not None} == trainable
    assert {name for name, parameter in objective.named_parameters() if parameter.requires_grad} == trainable
    assert len(objective.head_parameters()) == sum(not name.startswith("encoder.") for name in trainable) > 0


@light_pairs
def test_same_seed_gives_the_same_loss(build_objective, kind, network):
    objective, images = build_objective(kind, network)
    objective.eval()

    first, again, other = (float(objective(images, generator=seeded(s))["loss"].detach()) for s in (1, 1, 2))

    assert first == again != other


@light_pairs
def test_mostly_frozen_encoder_with_swapped_projections_learns(build_objective, kind, network):
    class Projection(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.weight = nn.Parameter(base.weight.detach(), requires_grad=False)
            self.shift = nn.Parameter(torch.zeros(len(base.weight)))

        def forward(self, tokens):
            return nn.functional.linear(tokens, self.weight, self.shift)

    objective, images = build_objective(kind, network)
    objective.encoder.requires_grad_(False)
    for block in transformer_blocks(objective.encoder):
        objective.encoder.set_submodule(block.output, Projection(objective.encoder.get_submodule(block.output)))

    objective(images, generator=seeded())["loss"].backward()

    learned = {name for name, p in objective.encoder.named_parameters() if p.grad is not None}
    assert learned == {f"{block.output}.shift" for block in transformer_blocks(objective.encoder)}


@light_pairs
def test_bf16_autocast_takes_the_loss_in_fp32(build_objective, kind, network):
    objective, images = build_objective(kind, network)
    exact = objective(images, generator=seeded())["loss"]

    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective(images, generator=seeded())["loss"]
    loss.backward()

    assert loss.dtype == torch.float32
    assert torch.allclose(loss, exact, rtol=0.02)
    assert all(torch.isfinite(parameter.grad).all() for parameter in objective.head_parameters())


@light_pairs
def test_foreground_decides_where_the_loss_is_taken(build_objective, kind, network):
    objective, images = build_objective(kind, network)
    objective.eval()
    shown = objective.reconstruct(images, seeded())
    foreground = torch.zeros_like(images[:, :1])
    whole = objective(images, torch.ones_like(foreground), generator=seeded())["loss"]

    assert torch.allclose(whole, objective(images, generator=seeded())["loss"])
    assert float(objective(images, foreground, generator=seeded())["loss"].detach()) == 0
    visible_only = 1 - shown["mask"][:, :1]
    assert float(objective(images, visible_only, generator=seeded())["loss"].detach()) == 0


@pytest.mark.parametrize("weighted", [False, True])
@light_pairs
def test_batches_join_to_one_by_their_weights(build_objective, kind, network, weighted):
    objective, images = build_objective(kind, network)
    objective, images = objective.eval().double(), torch.cat([images, images + 1])[:4].double()
    foreground = (
        torch.rand_like(images[:, :1])
        < torch.tensor([0.9, 0.5, 0.1, 0.0])[: len(images)].view(-1, *[1] * (images.dim() - 1))
    ).double()
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]

    def run(rows, generator):
        parts = objective(images[rows], foreground[rows] if weighted else None, generator=generator)
        total = parts["loss"] * parts["weight"]
        return total.detach(), parts, torch.autograd.grad(total, parameters, allow_unused=True)

    generator = seeded()  # one row of random numbers after another: the halves get the masks of the whole
    halves = [run(rows, generator) for rows in (slice(0, len(images) // 2), slice(len(images) // 2, None))]
    _, whole, gradients = run(slice(None), seeded())

    weight = sum(parts["weight"] for _, parts, _ in halves)
    assert not whole["weight"].requires_grad
    torch.testing.assert_close(weight, whole["weight"], rtol=1e-12, atol=0)
    torch.testing.assert_close(sum(total for total, *_ in halves) / weight, whole["loss"].detach(), rtol=1e-12, atol=0)
    for first, second, joined in zip(halves[0][2], halves[1][2], gradients, strict=True):
        if joined is not None:
            torch.testing.assert_close((first + second) / weight, joined / weight, rtol=1e-12, atol=1e-12)


@light_pairs
def test_copy_trains_apart_from_the_original(build_objective, kind, network):
    objective, images = build_objective(kind, network)
    copied = copy.deepcopy(objective)

    copied(images, generator=seeded())["loss"].backward()

    assert all(parameter.grad is None for parameter in objective.parameters())
    assert any(parameter.grad is not None for parameter in copied.encoder.parameters())


@light_pairs
def test_state_holds_the_encoder_once(build_objective, kind, network):
    objective, _ = build_objective(kind, network)
    names = objective.state_dict().keys()

    plain = {name.removeprefix("encoder.") for name in names if name.startswith("encoder.")}

    assert plain == objective.encoder.state_dict().keys()
    assert {name.split(".")[0] for name in names} - {"encoder", "decoder", "head", "mask_token"} == set()


def test_images_with_metadata_give_a_plain_loss(build_objective):
    objective, images = build_objective("mae", "vit_2d")

    loss = objective(MetaTensor(images), generator=seeded())["loss"]

    assert type(loss) is torch.Tensor
    assert torch.equal(loss, objective(images, generator=seeded())["loss"])


def blobs(shape: tuple[int, ...]) -> torch.Tensor:
    """Smooth waves along every axis: a visible patch tells much of its neighbours."""
    axes = torch.meshgrid(*(torch.arange(size) for size in shape[2:]), indexing="ij")
    phase = torch.rand(shape[:2] + (1,) * len(axes)) * 6
    return torch.sin(sum(axes) / 6 + phase) + 2


@light_pairs
def test_loss_falls_in_thirty_steps(build_objective, kind, network):
    objective, images = build_objective(kind, network)
    images = blobs(tuple(images.shape))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=2e-3)
    losses = []
    for step in range(30):
        loss = objective(images, generator=seeded(step % 3))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))

    # MAE starts near 1, the loss of predicting nothing of normalised patches.
    assert sum(losses[-3:]) < (0.95 if kind == "mae" else 0.8) * sum(losses[:3])


@pytest.mark.parametrize("objective", [MAE, SimMIM])
def test_loss_falls_on_real_volumes(hippocampus_tiny, objective):
    load = Compose([LoadImage(ensure_channel_first=True), NormalizeIntensity(), ResizeWithPadOrCrop((48, 64, 48))])
    images = torch.stack([load(path) for path in sorted(hippocampus_tiny.glob("imagesTr/*.nii.gz"))[:3]])
    module = objective(ViT(1, (48, 64, 48), 16, hidden_size=48, mlp_dim=64, num_layers=2, num_heads=4))
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
    losses = []
    for step in range(40):
        loss = module(images, generator=seeded(step % 2))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))

    assert sum(losses[-2:]) < 0.9 * sum(losses[:2])


@pytest.mark.parametrize("form", [PatchReconstruction("l2", True), PatchReconstruction("l1")], ids=str)
@pytest.mark.parametrize("objective", [MAE, SimMIM])
def test_every_form_of_the_loss_goes_with_every_objective(build_network, objective, form):
    module = objective(build_network("vit_2d"), loss=form)

    assert torch.isfinite(module(torch.randn(2, 2, 32, 32), generator=seeded())["loss"])


def _steps_of_one_process(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.set_num_threads(1)
    try:
        _train_in_step(rank, folder)
    finally:
        torch.distributed.destroy_process_group()


def _train_in_step(rank: int, folder: str) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "mlp_dim": 24, "num_heads": 2, "spatial_dims": 2}
    objectives = {
        "mae": MAE(ViT(1, 64, 16, num_layers=2, **sizes)),
        "simmim": SimMIM(SwinUNETR(1, 2, feature_size=12, spatial_dims=2)),
        "simmim_decoder": SimMIM(UNETR(1, 2, 64, feature_size=4, **sizes), handover="encoder+decoder"),
    }
    for name, objective in objectives.items():
        for tensor, parameter in objective.encoder.named_parameters():
            parameter.requires_grad_(reached(objective, tensor))
        wrapped = nn.parallel.DistributedDataParallel(objective)
        optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.01)
        for step in range(3):
            optimizer.zero_grad()
            images = torch.randn(2, 1, 64, 64, generator=seeded(10 * step + rank))
            wrapped(images, generator=seeded(100 * step + rank))["loss"].backward()
            optimizer.step()
        torch.save(objective.state_dict(), f"{folder}/{name}-{rank}.pt")


def test_two_processes_train_in_step_with_no_unused_parameter(tmp_path):
    run_ranks(_steps_of_one_process, str(tmp_path))
    for name in ("mae", "simmim", "simmim_decoder"):
        one, other = (torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1))
        assert all(torch.equal(one[tensor], other[tensor]) for tensor in one)


@pytest.mark.gpu
@light_pairs
def test_cpu_generator_masks_the_same_patches_on_the_gpu(build_objective, kind, network):
    objective, images = build_objective(kind, network)
    on_cpu = objective.eval().reconstruct(images, seeded())

    on_gpu = objective.cuda().reconstruct(images.cuda(), seeded())

    assert torch.equal(on_gpu["mask"].cpu(), on_cpu["mask"])
    assert torch.allclose(on_gpu["prediction"].cpu(), on_cpu["prediction"], rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@light_pairs
def test_mixed_precision_steps_run_on_the_gpu(build_objective, kind, network):
    objective, images = build_objective(kind, network)
    objective.cuda()

    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = objective(images.cuda(), generator=torch.Generator("cuda").manual_seed(0))["loss"]
    loss.backward()

    assert loss.dtype == torch.float32
    assert all(torch.isfinite(parameter.grad).all() for parameter in objective.head_parameters())
