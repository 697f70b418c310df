# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
import torch
from monai.networks.blocks.patchembedding import PatchEmbeddingBlock

from monai_essa.pretext import gather_patches, patchify, scatter_patches, unpatchify

CASES = [((2, 1, 8, 12), (4, 2)), ((2, 3, 4, 6, 8), (2, 3, 4)), ((1, 2, 4, 4, 4), (4, 4, 2)), ((1, 1, 2, 3), (1, 1))]


@pytest.mark.parametrize(("shape", "patch_size"), CASES)
def test_unpatchify_undoes_patchify(shape, patch_size):
    images = torch.randn(shape)
    grid = [size // patch for size, patch in zip(shape[2:], patch_size, strict=True)]

    assert torch.equal(unpatchify(patchify(images, patch_size), patch_size, grid), images)


def test_order_is_grid_by_rows_and_voxels_before_channels():
    images = torch.randn(1, 2, 4, 6, 4)

    patches = patchify(images, (2, 3, 4))

    # Patch 3 of the grid (2, 2, 1) is the last one.
    expected = [images[0, c, 2 + i, 3 + j, k] for i in range(2) for j in range(3) for k in range(4) for c in range(2)]
    assert torch.equal(patches[0, 3], torch.stack(expected))


def test_order_is_that_of_the_perceptron_embedding_of_monai():
    embedding = PatchEmbeddingBlock(2, (8, 8, 4), (4, 2, 2), 24, 2, proj_type="perceptron")
    images = torch.randn(2, 2, 8, 8, 4)

    assert torch.equal(patchify(images, (4, 2, 2)), embedding.patch_embeddings[0](images))


@pytest.mark.parametrize(("shape", "patch_size"), CASES)
def test_gathering_is_indexing(shape, patch_size):
    images = torch.randn(shape)
    patches = patchify(images, patch_size)
    indices = torch.stack([torch.randperm(patches.shape[1])[:2] for _ in range(shape[0])])

    expected = torch.stack([rows[chosen] for rows, chosen in zip(patches, indices, strict=True)])

    assert torch.equal(gather_patches(images, patch_size, indices), expected)


def test_gathering_works_on_a_transposed_image():
    images = torch.randn(1, 1, 8, 4).transpose(2, 3)
    indices = torch.tensor([[1]])

    assert torch.equal(gather_patches(images, (2, 2), indices)[:, 0], patchify(images, (2, 2))[:, 1])


def test_gradient_reaches_the_gathered_patches_only():
    images = torch.randn(1, 1, 4, 4, requires_grad=True)

    gather_patches(images, (2, 2), torch.tensor([[2]])).sum().backward()

    assert torch.equal(images.grad[0, 0], torch.tensor([[0.0] * 4] * 2 + [[1.0, 1.0, 0.0, 0.0]] * 2))


def test_scattering_puts_back_what_was_gathered():
    images = torch.randn(2, 2, 4, 6)
    before = images.clone()
    indices = torch.tensor([[0, 5], [3, 1]])
    patches = torch.randn(2, 2, 8)

    result = scatter_patches(images, patches, (2, 2), indices)

    assert torch.equal(gather_patches(result, (2, 2), indices), patches)
    assert torch.equal(images, before)
    visible = torch.tensor([[1, 2, 3, 4], [0, 2, 4, 5]])
    assert torch.equal(gather_patches(result, (2, 2), visible), gather_patches(images, (2, 2), visible))


@pytest.mark.parametrize("cut", [patchify, lambda images, size: gather_patches(images, size, torch.zeros(1, 1).long())])
@pytest.mark.parametrize("shape", [(1, 1, 4, 5), (1, 1, 4, 4, 4)])
def test_patch_that_does_not_divide_is_refused(cut, shape):
    with pytest.raises(ValueError, match=r"multiple of the patch size \(2, 2\), got "):
        cut(torch.zeros(shape), (2, 2))
