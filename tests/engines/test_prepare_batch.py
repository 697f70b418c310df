# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import torch

from monai_essa.engines.objectives import prepare_unlabelled_batch


def test_a_label_is_never_handed_on() -> None:
    images = torch.zeros(2, 1, 4, 4)
    assert prepare_unlabelled_batch({"image": images, "label": torch.ones(2, 1, 4, 4)})[1] is None


def test_a_foreground_mask_is_handed_on() -> None:
    mask = torch.ones(2, 1, 4, 4)
    _, foreground = prepare_unlabelled_batch({"image": torch.zeros(2, 1, 4, 4), "foreground": mask}, "cpu", True)
    assert torch.equal(foreground, mask)


def test_arguments_of_to_reach_the_tensors() -> None:
    images, foreground = prepare_unlabelled_batch(
        {"image": torch.zeros(1), "foreground": torch.zeros(1)}, dtype=torch.float64
    )
    assert images.dtype == foreground.dtype == torch.float64
