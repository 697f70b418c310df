# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Fitting one tensor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from monai_essa.anatomy.positions import POSITIONS
from monai_essa.weights.fit import Grids, fit

UNKNOWN = Grids(None, None, source_dims=3, target_dims=3)
PATCHES = "patch_embedding.patch_embeddings.weight"


def linear_table(grid: tuple[int, ...]) -> torch.Tensor:
    """A table whose features are the coordinates in [0, 1] of the centres of the patches: (1, N, 3)."""
    axes = [(torch.arange(size) + 0.5) / size for size in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(1, -1, len(grid))


def test_equal_shapes_are_taken_as_they_are() -> None:
    tensor = torch.randn(6, 4)
    assert fit("blocks.0.attn.qkv.weight", tensor, (6, 4), UNKNOWN).tensor is tensor


def test_other_shapes_are_skipped_never_broadcast() -> None:
    fitted = fit("norm.weight", torch.ones(1), (48,), UNKNOWN)
    assert fitted.kind == "skipped"
    assert fitted.reason == "shape (1,) in the file, (48,) in the network"


@pytest.mark.parametrize(
    "name",
    [PATCHES, "patch_embed.proj.weight", "encoder1.layer.conv1.conv.weight", "convInit.conv.weight", "conv_init.weight"]
    + ["model.0.conv.weight", "model.0.conv.unit0.conv.weight", "model.0.residual.weight"],
)
def test_first_convolutions_take_other_channels(name: str) -> None:
    assert fit(name, torch.ones(6, 1, 2, 2, 2), (6, 2, 2, 2, 2), UNKNOWN).kind == "inflated"


def test_a_later_convolution_does_not_take_other_channels() -> None:
    assert (
        fit("encoder2.layer.conv1.conv.weight", torch.ones(6, 1, 2, 2, 2), (6, 2, 2, 2, 2), UNKNOWN).kind == "skipped"
    )


def test_positions_keep_their_relative_place_when_the_grid_shrinks() -> None:
    fitted = fit(POSITIONS, linear_table((4, 4, 4)), (1, 8, 3), Grids(None, (2, 2, 2), source_dims=3, target_dims=3))
    assert fitted.kind == "interpolated"
    assert fitted.reason == "grid (4, 4, 4) (assumed) -> (2, 2, 2)"
    torch.testing.assert_close(fitted.tensor, linear_table((2, 2, 2)))


def test_grids_that_are_known_need_no_assumption() -> None:
    grids = Grids((4, 2, 2), (2, 4, 1), source_dims=3, target_dims=3)
    fitted = fit(POSITIONS, linear_table((4, 2, 2)), (1, 8, 3), grids)
    assert fitted.reason == "grid (4, 2, 2) -> (2, 4, 1)"
    assert torch.equal(fitted.tensor[0, :, 0].unique(), torch.tensor([0.25, 0.75]))


def test_one_count_on_two_known_grids_is_interpolated() -> None:
    grids = Grids((4, 2, 1), (2, 2, 2), source_dims=3, target_dims=3)
    assert fit(POSITIONS, linear_table((4, 2, 1)), (1, 8, 3), grids).kind == "interpolated"


def test_one_count_without_a_source_grid_is_the_same_grid_where_both_have_equal_sides() -> None:
    table = linear_table((2, 2, 2))
    for target in ((2, 2, 2), None):
        fitted = fit(POSITIONS, table, (1, 8, 3), Grids(None, target, source_dims=3, target_dims=3))
        assert fitted.kind == "matched"
        assert torch.equal(fitted.tensor, table)


@pytest.mark.parametrize("target", [(4, 2, 1), (1, 2, 4)])
def test_one_count_on_unequal_sides_proves_no_grid(target: tuple[int, ...]) -> None:
    """A file of (2, 2, 2), of (4, 2, 1) and of (1, 2, 4) has 8 entries."""
    unknown = Grids(None, target, source_dims=3, target_dims=3)
    fitted = fit(POSITIONS, linear_table((4, 2, 1)), (1, 8, 3), unknown)
    assert fitted.kind == "skipped"
    assert f"such as (2, 2, 2) or {target}; give source_grid" in fitted.reason

    known = replace(unknown, source=target)
    assert fit(POSITIONS, linear_table(target), (1, 8, 3), known).kind == "matched"


@pytest.mark.parametrize("target", [None, (3, 4, 3)])
def test_a_count_without_equal_sides_proves_no_grid(target: tuple[int, ...] | None) -> None:
    fitted = fit(POSITIONS, torch.ones(1, 36, 6), (1, 36, 6), Grids(None, target, source_dims=3, target_dims=3))
    assert fitted.kind == "skipped"
    assert "give source_grid" in fitted.reason


def test_a_network_that_does_not_know_its_grid_takes_over_the_files() -> None:
    assert fit(POSITIONS, torch.ones(1, 36, 6), (1, 36, 6), Grids((3, 4, 3), None, 3, 3)).kind == "matched"


def test_nothing_is_interpolated_to_a_grid_that_nobody_knows() -> None:
    """64 positions of a network are (4, 4, 4) or (8, 4, 2)."""
    fitted = fit(POSITIONS, linear_table((2, 2, 2)), (1, 64, 3), UNKNOWN)
    assert fitted.kind == "skipped"
    assert "give target_grid" in fitted.reason


def test_a_flat_grid_is_repeated_along_the_last_axis() -> None:
    grids = Grids(None, (4, 4, 4), source_dims=2, target_dims=3)
    table = torch.randn(1, 64, 5)
    fitted = fit(POSITIONS, table, (1, 64, 5), grids)  # 8 x 8 -> 4 x 4 x 4: as many tokens, another grid
    volume = fitted.tensor.reshape(4, 4, 4, 5)
    torch.testing.assert_close(volume[:, :, 0], volume[:, :, 3])
    assert fitted.reason == "grid (8, 8) (assumed) -> (4, 4, 4)"


@pytest.mark.parametrize(("source", "target", "hint"), [(12, 8, "source_grid"), (8, 12, "target_grid")])
def test_a_grid_that_cannot_be_known_is_asked_for(source: int, target: int, hint: str) -> None:
    fitted = fit(POSITIONS, torch.ones(1, source, 6), (1, target, 6), UNKNOWN)
    assert fitted.kind == "skipped"
    assert hint in fitted.reason


@pytest.mark.parametrize(("source", "target", "side"), [((3, 2, 2), None, "source"), (None, (3, 3, 3), "target")])
def test_a_given_grid_has_to_fit(source: tuple[int, ...] | None, target: tuple[int, ...] | None, side: str) -> None:
    with pytest.raises(ValueError, match=rf"{side}_grid .* expected 8"):
        fit(POSITIONS, torch.ones(1, 8, 6), (1, 8, 6), Grids(source, target, source_dims=3, target_dims=3))


def test_positions_of_another_width_are_skipped() -> None:
    assert fit(POSITIONS, torch.ones(1, 8, 6), (1, 8, 12), UNKNOWN).kind == "skipped"


def test_positions_of_a_volume_do_not_fit_an_image() -> None:
    assert (
        fit(POSITIONS, torch.ones(1, 64, 6), (1, 16, 6), Grids(None, None, source_dims=3, target_dims=2)).kind
        == "skipped"
    )
