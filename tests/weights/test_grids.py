# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What is known of patch grids."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch.nn as nn

from monai_essa.anatomy.key_maps import KEY_MAPS
from monai_essa.weights.alignment import alignments
from monai_essa.weights.file import WeightFile
from monai_essa.weights.fit import Grids, find_grids

Build = Callable[..., nn.Module]


def grids_of(source: nn.Module, target: nn.Module, *given: tuple[int, ...] | None) -> Grids | None:
    file = WeightFile("weights.pt", "", source.state_dict())
    return find_grids(target, file, alignments(file.tensors, target, KEY_MAPS)[0], given or (None, None))


def test_a_network_that_keeps_its_image_size_tells_its_grid(build: Build) -> None:
    assert grids_of(build("vit"), build("unetr", img_size=(32, 48, 16))) == Grids(None, (2, 3, 1), 3, 3)
    assert grids_of(build("vit"), build("mae", img_size=(32, 48, 16))) == Grids(None, (2, 3, 1), 3, 3)


def test_a_vit_does_not_tell_its_grid(build: Build) -> None:
    assert grids_of(build("unetr"), build("vit")) == Grids(None, None, 3, 3)


def test_what_the_caller_gives_is_believed(build: Build) -> None:
    assert grids_of(build("vit"), build("unetr"), (4, 2, 1), (2, 2, 2)) == Grids((4, 2, 1), (2, 2, 2), 3, 3)


@pytest.mark.parametrize(("source", "target"), [(2, 3), (3, 2), (2, 2)])
def test_the_patch_embeddings_tell_the_dimensions(source: int, target: int, build: Build) -> None:
    grids = grids_of(build("vit", spatial_dims=source), build("vit", spatial_dims=target))
    assert grids is not None
    assert (grids.source_dims, grids.target_dims) == (source, target)


def test_a_swin_transformer_has_no_grid(build: Build) -> None:
    assert grids_of(build("swin"), build("swin")) is None
