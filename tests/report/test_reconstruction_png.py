# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The picture of a reconstruction: proportions, grey scale and refusal of what cannot be shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from monai_essa.report import reconstructions as reconstruction_png
from monai_essa.report.reconstructions import reconstruction_montage, write_reconstruction_png

TITLES = 26  # height of the column titles
GAP = 6


def _flat(value: float, shape: tuple[int, ...] = (1, 8, 12, 8)) -> torch.Tensor:
    """A flat image with a few dark and bright voxels in two corners, so that its window is 0 to 1."""
    image = torch.full(shape, value)
    image.view(-1)[:5], image.view(-1)[-5:] = 0.0, 1.0
    return image


def _columns(picture: np.ndarray) -> list[np.ndarray]:
    """The three slices of a 2-D montage, which has no row names."""
    width = (picture.shape[1] - 4 * GAP) // 3
    return [picture[TITLES:-GAP, GAP + left : GAP + left + width] for left in range(0, 3 * (width + GAP), width + GAP)]


def _middle(picture: np.ndarray) -> int:
    return int(picture[picture.shape[0] // 2, picture.shape[1] // 2])


def test_columns_are_original_masked_and_reconstructed() -> None:
    shape = (1, 8, 12)
    picture = reconstruction_montage(_flat(0.5, shape), _flat(0.2, shape), _flat(0.8, shape))

    assert [_middle(column) for column in _columns(picture)] == [128, 51, 204]


def test_reconstruction_is_shown_on_the_grey_scale_of_the_original() -> None:
    shape = (1, 8, 12)
    picture = reconstruction_montage(_flat(0.5, shape), _flat(0.5, shape), torch.full(shape, -7.0))

    assert _columns(picture)[2].max() == 0


def test_a_volume_gives_three_rows_and_a_picture_one() -> None:
    volume = reconstruction_montage(*[_flat(0.5, (1, 8, 8, 8))] * 3)
    picture = reconstruction_montage(*[_flat(0.5, (1, 8, 8))] * 3)

    assert volume.shape[0] - TITLES == 3 * (picture.shape[0] - TITLES)
    assert volume.dtype == picture.dtype == np.uint8


def test_thick_slices_are_shown_at_their_true_height() -> None:
    shape, spacing = (1, 12, 12, 4), (1.0, 1.0, 3.0)
    cube = reconstruction_montage(*[_flat(0.5, (1, 12, 12, 12))] * 3)

    assert reconstruction_montage(*[_flat(0.5, shape)] * 3, spacing=spacing).shape == cube.shape
    assert reconstruction_montage(*[_flat(0.5, shape)] * 3).shape[0] < cube.shape[0]


def test_the_channel_asked_for_is_shown() -> None:
    image = torch.cat([_flat(0.2, (1, 8, 8)), _flat(0.6, (1, 8, 8))])

    picture = reconstruction_montage(image, image, image, channel=1)
    assert _middle(_columns(picture)[0]) == 153


def test_arrays_and_tensors_on_a_graph_are_taken_alike() -> None:
    image = _flat(0.5)

    np.testing.assert_array_equal(
        reconstruction_montage(*[image.clone().requires_grad_().to(torch.float16) for _ in range(3)]),
        reconstruction_montage(*[image.numpy()] * 3),
    )


def test_a_constant_or_diverged_volume_is_still_drawn() -> None:
    constant = torch.full((1, 8, 8, 8), 3.0)

    assert reconstruction_montage(constant, constant, constant * torch.nan).dtype == np.uint8


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 8, 8, 8), (1, 8, 8, 8), (1, 8, 8, 4)), "expected one shape for all three images, got original"),
        (((2, 1, 8, 8, 8),) * 3, r"got shape \(2, 1, 8, 8, 8\); pick one item of a batch"),
        (((1, 8),) * 3, r"expected \(C, x, y\) or \(C, x, y, z\), got shape \(1, 8\)"),
    ],
)
def test_shapes_that_cannot_be_shown_are_refused(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reconstruction_montage(*(torch.zeros(shape) for shape in shapes))


def test_a_channel_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="channel 1 does not exist, the image has 1 channels"):
        reconstruction_montage(*[torch.zeros(1, 8, 8)] * 3, channel=1)


def test_the_file_holds_the_montage_and_replaces_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "reconstruction.png"
    path.write_text("older")
    written = write_reconstruction_png(path, _flat(0.5), _flat(0.2), _flat(0.8))

    assert written == path
    np.testing.assert_array_equal(
        np.asarray(Image.open(path)), reconstruction_montage(_flat(0.5), _flat(0.2), _flat(0.8))
    )
    assert [file.name for file in tmp_path.iterdir()] == ["reconstruction.png"]


def test_module_needs_no_plotting_library() -> None:
    assert "matplotlib" not in Path(reconstruction_png.__file__).read_text(encoding="utf-8")
