# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What reads features leaves every part of an encoder in its mode, also a part that changes with its mode."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_essa.pretext.distillation.views import in_eval


class Cached(nn.Module):
    """As TinyViT's attention: it computes a buffer when it is put into eval mode, and needs it there."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(1), requires_grad=False)
        self.inner = nn.Dropout()

    def train(self, mode: bool = True) -> Cached:
        super().train(mode)
        if mode and hasattr(self, "kept"):
            del self.kept
        elif not mode:
            self.register_buffer("kept", self.bias + 1, persistent=False)
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images) + (self.bias + 1 if self.training else self.kept)


def test_a_part_that_prepares_itself_for_eval_is_told_of_it_and_all_modes_come_back() -> None:
    network = nn.Sequential(Cached(), nn.Sequential(Cached(), nn.BatchNorm1d(3)))
    network[1][1].eval()  # frozen statistics
    network[0].inner.eval()
    before = {name: part.training for name, part in network.named_modules()}
    with in_eval(network):
        assert not any(part.training for part in network.modules())
        assert torch.isfinite(network(torch.ones(2, 3))).all()
    assert {name: part.training for name, part in network.named_modules()} == before
    assert not hasattr(network[0], "kept")
