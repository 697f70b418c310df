# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
import torch
import torch.nn as nn

from monai_essa.pretext.mae import TokenDecoder

VISIBLE = torch.tensor([[0, 2, 5], [7, 1, 3]])
MASKED = torch.tensor([[1, 3, 4, 6, 7], [0, 2, 4, 5, 6]])


def decoder(depth: int = 1) -> TokenDecoder:
    return TokenDecoder(10, 64, spatial_dims=3, hidden_size=12, depth=depth, num_heads=2)


def test_only_masked_patches_are_predicted():
    assert decoder()(torch.randn(2, 3, 10), VISIBLE, MASKED, (2, 2, 2)).shape == (2, 5, 64)


def test_it_starts_as_the_official_code_does():
    module = TokenDecoder(48, 64, spatial_dims=2, hidden_size=64, depth=2, num_heads=2)

    linears = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    assert len(linears) == 2 + 2 * 4
    for layer in linears:
        bound, weight = (6 / (layer.in_features + layer.out_features)) ** 0.5, layer.weight.detach()
        assert 0.95 * bound < weight.abs().max() <= bound
        assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.05)
        assert not layer.bias.any()
    assert {layer.eps for layer in module.modules() if isinstance(layer, nn.LayerNorm)} == {1e-6}
    assert float(module.mask_token.detach().std()) == pytest.approx(0.02, rel=0.5)


def test_a_class_token_goes_through_the_blocks_without_a_position_and_is_not_predicted():
    module, encoded = decoder(depth=1), torch.randn(2, 4, 10)

    seen = []
    module.blocks[0].register_forward_pre_hook(lambda _block, inputs: seen.append(inputs[0]))
    with_token = module(encoded, VISIBLE, MASKED, (2, 2, 2))
    without = module(encoded[:, 1:], VISIBLE, MASKED, (2, 2, 2))

    assert with_token.shape == without.shape == (2, 5, 64)
    assert torch.equal(seen[0][:, 0], module.embed(encoded)[:, 0]) and torch.equal(seen[0][:, 1:], seen[1])
    assert not torch.allclose(with_token, without)


def test_without_blocks_masked_tokens_know_their_place_and_nothing_else():
    module = decoder(depth=0)

    first, other = (module(torch.randn(2, 3, 10), VISIBLE, MASKED, (2, 2, 2)) for _ in range(2))

    assert torch.equal(first, other)
    assert torch.equal(first[0, 2], first[1, 2])  # both are patch 4
    assert not torch.allclose(first[0, 0], first[0, 1])


def test_encoded_tokens_stand_at_their_place():
    module, encoded = decoder(), torch.randn(2, 3, 10)
    order = torch.tensor([2, 0, 1])

    shuffled = module(encoded[:, order], VISIBLE[:, order], MASKED, (2, 2, 2))

    assert torch.allclose(shuffled, module(encoded, VISIBLE, MASKED, (2, 2, 2)), atol=1e-6)
    assert not torch.allclose(shuffled, module(encoded, VISIBLE[:, order], MASKED, (2, 2, 2)), atol=1e-3)


@pytest.mark.parametrize("grid", [(2, 2, 2), (8, 1, 1), (1, 2, 4)])
def test_grid_decides_the_positions(grid):
    module = decoder()
    encoded = torch.randn(2, 3, 10)

    same = torch.allclose(module(encoded, VISIBLE, MASKED, grid), module(encoded, VISIBLE, MASKED, (2, 2, 2)))

    assert same == (grid == (2, 2, 2))


def test_every_parameter_gets_a_gradient():
    module = decoder(depth=2)

    module(torch.randn(2, 3, 10), VISIBLE, MASKED, (2, 2, 2)).square().sum().backward()

    assert [name for name, parameter in module.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(("dims", "width"), [(2, 6), (3, 16)])
def test_width_that_holds_no_positions_is_refused(dims, width):
    with pytest.raises(ValueError, match=f"multiple of {2 * dims} for {dims}-D sine-cosine positions, got {width}"):
        TokenDecoder(10, 64, dims, width, depth=1, num_heads=2)
