# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Only forward passes that lean training was written for are replaced; the others stay, with one warning a class."""

from __future__ import annotations

import copy
import functools

import monai
import pytest
import torch
from monai.networks.blocks import UnetrUpBlock
from monai.networks.blocks.dynunet_block import UnetResBlock
from monai.networks.blocks.selfattention import SABlock
from monai.networks.nets import UNETR, SwinUNETR, swin_unetr
from monai.networks.nets.swin_unetr import SwinTransformerBlock, WindowAttention

from monai_essa import lean
from monai_essa.anatomy.lean_marks import LeanForward
from monai_essa.efficiency.stock_forwards import has_known_forward

BLOCKS = {
    SABlock: lambda: SABlock(24, 4),
    WindowAttention: lambda: WindowAttention(24, 3, (4, 4)),
    SwinTransformerBlock: lambda: SwinTransformerBlock(24, 3, (4, 4), (2, 2)),
    UnetResBlock: lambda: UnetResBlock(2, 4, 4, 3, 1, "instance"),
    UnetrUpBlock: lambda: UnetrUpBlock(2, 6, 4, 3, 2, "instance", res_block=True),
}
UNETR_2D = functools.partial(UNETR, 1, 2, (32, 32), 4, 48, 96, 4, spatial_dims=2)
SWIN_2D = functools.partial(SwinUNETR, 1, 2, feature_size=12, spatial_dims=2)
NETWORKS = {
    SABlock: UNETR_2D,
    WindowAttention: SWIN_2D,
    SwinTransformerBlock: SWIN_2D,
    UnetResBlock: SWIN_2D,
    UnetrUpBlock: UNETR_2D,
}


def assert_kept_but_lean_beside(network, kept):
    """Blocks of the classes ``kept`` have their own forward pass, others are lean, and the output is the plain one."""
    images = torch.rand(1, 1, 32, 32) if isinstance(network, UNETR) else torch.rand(1, 1, 96, 96)
    twin = lean(copy.deepcopy(network).double())
    torch.testing.assert_close(twin(images.double()), network.double()(images.double()))
    own = [module for module in twin.modules() if type(module) in kept]
    assert len(own) > 1 and not any("forward" in vars(module) for module in own)
    assert any(isinstance(vars(module).get("forward"), LeanForward) for module in twin.modules())


@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.__name__)
def test_the_code_of_the_installed_monai_was_read(kind):
    assert has_known_forward(BLOCKS[kind]()), f"compare lean's {kind.__name__} with that of MONAI {monai.__version__}"


@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.__name__)
def test_a_patched_class_keeps_its_forward_and_one_warning_says_so(kind, monkeypatch, caplog):
    stock = kind.forward

    @functools.wraps(stock)  # inspect would find the source of MONAI behind it
    def doubled(self, *inputs, **named):
        return 2 * stock(self, *inputs, **named)

    monkeypatch.setattr(kind, "forward", doubled)
    with caplog.at_level("WARNING"):
        # Window attention is called by its block: neither can be lean without the other.
        swin = {SwinTransformerBlock, WindowAttention}
        assert_kept_but_lean_beside(NETWORKS[kind](), swin if kind in swin else {kind})
        lean(NETWORKS[kind]())
    (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("monai_essa")]
    assert message.startswith(
        f"lean training was written for {kind.__name__}.forward of MONAI 1.5.2, 1.6.0 and 1.6.1, "
    )
    assert f"{kind.__name__} keeps its own forward pass" in message and "\n" not in message


def test_another_mask_between_windows_keeps_swin_as_it_is(monkeypatch, caplog):
    stock = swin_unetr.compute_mask
    monkeypatch.setattr(swin_unetr, "compute_mask", lambda *args: stock(*args) / 2)
    with caplog.at_level("WARNING"):
        assert_kept_but_lean_beside(SWIN_2D(), {SwinTransformerBlock, WindowAttention})
    assert [record.args[0] for record in caplog.records] == ["compute_mask"]


def test_a_forward_without_source_is_not_replaced(monkeypatch, caplog):
    names = {"stock": SABlock.forward}
    exec("def unread(self, *inputs, **named): return stock(self, *inputs, **named)", names)
    monkeypatch.setattr(SABlock, "forward", names["unread"])
    with caplog.at_level("WARNING"):
        assert_kept_but_lean_beside(UNETR_2D(), {SABlock})
    assert len(caplog.records) == 1


@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.__name__)
def test_a_subclass_computes_what_it_computes(kind, caplog):
    class Doubled(kind):
        def forward(self, *inputs, **named):
            return 2 * super().forward(*inputs, **named)

    network = NETWORKS[kind]()
    for module in network.modules():
        if type(module) is kind:
            module.__class__ = Doubled
    with caplog.at_level("WARNING"):
        assert_kept_but_lean_beside(network, {Doubled})
    assert not caplog.records
