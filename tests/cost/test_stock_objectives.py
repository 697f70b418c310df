# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The yardstick does the work of our objectives: with the same mask it gives the same loss."""

from __future__ import annotations

import torch
from monai.networks.nets import MaskedAutoEncoderViT, ViT

from monai_essa.cost import table
from monai_essa.cost.table import StockMAE, StockSimMIM
from monai_essa.pretext import PatchReconstruction, SimMIM, gather_patches
from monai_essa.pretext.masking import split_cells


def test_stock_simmim_has_the_loss_of_ours(monkeypatch):
    net = ViT(1, 32, 8, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4)
    stock, ours = StockSimMIM(net, (8, 8, 8)), SimMIM(encoder=net, mask_unit=8)
    ours.mask_token, ours.head.predict = stock.mask_token, stock.head
    images = torch.rand(2, 1, 32, 32, 32)
    predicted = ours.predict(images, torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 64, dtype=torch.bool).scatter_(1, predicted.indices, True)
    monkeypatch.setattr(table, "_mask", lambda tokens, ratio: mask)
    loss = ours(images, generator=torch.Generator().manual_seed(0))["loss"]
    torch.testing.assert_close(stock(images)["loss"], loss)


def test_stock_mae_scores_what_it_masked():
    stock = StockMAE(MaskedAutoEncoderViT(1, 32, 8, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), (8, 8, 8))
    images = torch.rand(2, 1, 32, 32, 32)
    torch.manual_seed(0)
    loss = stock(images)["loss"]
    torch.manual_seed(0)
    prediction, mask = stock.network(images)
    _, masked = split_cells(mask.bool().view(2, 4, 4, 4), int(mask[0].sum()))
    chosen = prediction.gather(1, masked[..., None].expand(-1, -1, prediction.shape[-1]))
    expected = PatchReconstruction("l2", normalised=True)(chosen, gather_patches(images, (8, 8, 8), masked))
    torch.testing.assert_close(loss, expected)
