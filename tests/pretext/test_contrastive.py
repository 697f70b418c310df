# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Contrast and DIET agree with their formulas in float64, in value and gradient, in 2-D and 3-D."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import ResNet, SwinUNETR, ViT
from torch import Tensor

from monai_essa.pretext import DIET, Contrastive

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "vit_2d": (lambda: ViT(1, 16, 8, 24, 32, 1, 2, spatial_dims=2), (16, 16)),
    "vit_3d": (lambda: ViT(1, 16, 8, 24, 32, 1, 2), (16,) * 3),
    "swin_2d": (lambda: SwinUNETR(1, 2, feature_size=12, spatial_dims=2, depths=(1, 1, 1, 1)), (64, 64)),
    "resnet_2d": (lambda: ResNet("basic", [1, 1, 1, 1], [4, 4, 4, 8], 2, 1), (32, 32)),
}


def crops(shape: tuple[int, ...], batch: int = 8, views: int = 2) -> Tensor:
    return torch.rand(batch, views, 1, *shape, generator=torch.Generator().manual_seed(0))


def nt_xent(one: Tensor, other: Tensor, temperature: float = 0.5) -> Tensor:
    z = torch.cat([one, other])
    z = z / z.norm(dim=1, keepdim=True)
    n = len(one)
    terms = []
    for i in range(2 * n):
        powers = [(z[i] @ z[k] / temperature).exp() for k in range(2 * n) if k != i]
        terms.append(-((z[i] @ z[(i + n) % (2 * n)] / temperature).exp() / sum(powers)).log())
    return sum(terms) / (2 * n)  # type: ignore[return-value]


def barlow(one: Tensor, other: Tensor) -> Tensor:
    n, features = one.shape
    total = one.new_zeros(())
    for i in range(features):
        for j in range(features):
            a, b = one[:, i] - one[:, i].mean(), other[:, j] - other[:, j].mean()
            deviations = [(v.square().sum() / (n - 1)).sqrt() + 1e-6 for v in (a, b)]
            c = (a * b).sum() / n / deviations[0] / deviations[1]
            total = total + ((1 - c) ** 2 if i == j else 5e-3 * c**2)
    return total


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("loss", "reference"), [("nt-xent", nt_xent), ("barlow", barlow)])
def test_contrast_is_its_formula(loss: str, reference: Callable[..., Tensor], dims: int):
    torch.manual_seed(0)
    make, shape = NETWORKS[f"vit_{dims}d"]
    objective = Contrastive(make(), loss, projection=4).double()
    views = crops(shape).double()
    (got,) = objective(views).values()

    tokens = [objective.encoder(views[:, view])[0].mean(1) for view in range(2)]
    expected = reference(*map(objective.head, tokens))
    learning = [p for p in objective.parameters() if p.requires_grad]
    gradients = [
        torch.autograd.grad(value, learning, retain_graph=True, allow_unused=True) for value in (got, expected)
    ]
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_diet_is_its_formula(dims: int):
    torch.manual_seed(0)
    make, shape = NETWORKS[f"vit_{dims}d"]
    objective, views, numbers = DIET(make(), images=6).double(), crops(shape, 3).double(), torch.tensor([5, 0, 2])
    (got,) = objective(views, numbers).values()

    terms = []
    for b, number in enumerate(numbers):
        for view in range(2):
            z = objective.encoder(views[b : b + 1, view])[0].mean(1)[0]
            scores = [row @ z for row in objective.head.weight]
            total = sum(score.exp() for score in scores)
            y = [0.8 / 6 + (0.2 if k == number else 0.0) for k in range(6)]
            terms.append(-sum(y[k] * (scores[k].exp() / total).log() for k in range(6)))
    expected = sum(terms) / len(terms)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    ours, theirs = (
        torch.autograd.grad(value, objective.head.weight, retain_graph=True)[0] for value in (got, expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "network"),
    [("nt-xent", "swin_2d"), *product(("nt-xent", "barlow", "diet"), ("vit_2d", "vit_3d", "resnet_2d"))],
)
def test_twenty_steps_on_one_batch_lower_the_loss(kind: str, network: str):
    torch.manual_seed(0)
    make, shape = NETWORKS[network]
    objective = DIET(make(), images=8) if kind == "diet" else Contrastive(make(), kind, projection=8)
    inputs = (crops(shape), torch.arange(8)) if kind == "diet" else (crops(shape),)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-4)
    losses = []
    for _ in range(20):
        loss = objective(*inputs)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-5:]) < sum(losses[:5])


def test_a_second_scan_of_a_patient_is_no_negative():
    torch.manual_seed(0)
    make, shape = NETWORKS["vit_2d"]
    objective, views = Contrastive(make()), crops(shape, 9)
    twice = objective(views, patients=[0, 1, 2, 3, 4, 5, 6, 7, 0])["loss"]
    torch.testing.assert_close(twice, objective(views[:8])["loss"])


def test_autocast_computes_the_comparison_in_full_precision():
    make, shape = NETWORKS["vit_2d"]
    with torch.autocast("cpu", torch.bfloat16):
        assert Contrastive(make())(crops(shape))["loss"].dtype == torch.float32
        assert DIET(make(), images=8)(crops(shape), torch.arange(8))["loss"].dtype == torch.float32


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda net: Contrastive(net)(crops((16, 16), 7)), "nt-xent needs 8 patients in a batch or more, got 7"),
        (
            lambda net: Contrastive(net, "barlow").eval()(crops((16, 16), 1)),
            "validation by barlow needs 2 patients .* hold out more scans",
        ),
        (lambda net: Contrastive(net)(crops((16, 16), views=3)), r"set views: \[2, 0\]"),
        (lambda net: Contrastive(net)(crops((16, 12))), r"got \(16, 12\)"),
        (lambda net: Contrastive(net, "triplet"), "expected loss to be one of nt-xent, barlow"),
        (lambda net: DIET(net, images=1), "expected two images or more"),
        (lambda net: DIET(net, images=4)(crops((16, 16)), torch.arange(3)), "expected one number for each of 8"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(run: Callable[[nn.Module], object], message: str):
    with pytest.raises(ValueError, match=message) as caught:
        run(NETWORKS["vit_2d"][0]())
    assert "\n" not in str(caught.value)
