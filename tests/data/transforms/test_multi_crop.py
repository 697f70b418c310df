# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Views come from one region of the foreground, keep proportions, and are drawn by their key alone."""

from __future__ import annotations

import itertools

import pytest
import torch
from monai.data import CacheDataset, DataLoader
from torch import Tensor

from monai_essa.data import KeyedDataset, KeyedSampler
from monai_essa.data.transforms import MarkCropCentresd, MarkForegroundd, MultiCropd, view_intensity


def places(*shape: int) -> Tensor:
    """Return an image whose channels are the coordinates of its voxels."""
    return torch.stack(torch.meshgrid(*(torch.arange(size) for size in shape), indexing="ij")).float()


def box(view: Tensor) -> list[tuple[float, float]]:
    """Return the range of each coordinate in a view; flips do not change it."""
    return [(float(channel.min()), float(channel.max())) for channel in view]


@pytest.mark.parametrize("shape", [(60, 50), (40, 30, 36)])
def test_views_share_a_region_and_are_zoomed_alike_along_all_axes(shape: tuple[int, ...]):
    large, little = tuple(size // 2 for size in shape), tuple(size // 4 for size in shape)
    crop = MultiCropd("image", large, little, views=[2, 3])
    for seed in range(20):
        crop.set_random_state(seed=seed)
        item = crop({"image": places(*shape)})
        assert item["image"].shape == (2, len(shape), *large) and item["local"].shape == (3, len(shape), *little)
        boxes = [box(view) for view in (*item["image"], *item["local"])]
        for axis, size in enumerate(large):
            low, high = min(view[axis][0] for view in boxes), max(view[axis][1] for view in boxes)
            assert high - low <= 1.5 * size
            (first, last), (other_first, other_last) = boxes[0][axis], boxes[1][axis]
            assert max(first, other_first) < min(last, other_last)  # two global views overlap
        for view, size in [(view, large) for view in boxes[:2]] + [(view, little) for view in boxes[2:]]:
            # The first and the last voxel centre of a view are half a step inside, so compare steps.
            zooms = [(size[axis] - 1) / (view[axis][1] - view[axis][0]) for axis in range(len(shape))]
            assert all(0.7 < zoom < 1.45 for zoom in zooms)
            assert max(zooms) / min(zooms) < 1.3  # whole voxels of small crops


def test_a_scan_as_small_as_the_crop_is_never_stretched():
    crop = MultiCropd("image", (16, 24), (8, 12), views=[2, 0]).set_random_state(seed=0)
    for _ in range(20):
        views = crop({"image": places(16, 24)})
        assert "local" not in views
        for view in views["image"]:
            rows, columns = (high - low + 1 for low, high in box(view))
            assert rows / columns == pytest.approx(16 / 24, rel=0.1)


def test_the_region_lies_around_a_foreground_voxel():
    image = torch.zeros(1, 64, 64)
    image[:, 40:44, 8:12] = 1
    item = MarkForegroundd(keys="image")({"image": image})
    item = MarkCropCentresd(keys="foreground")(item)
    crop = MultiCropd("image", (12, 12), (6, 6), views=[2, 0])
    seen = []
    for seed in range(10):
        crop.set_random_state(seed=seed)
        views = crop(item)
        assert set(views) == {"image", "foreground", "bg_indices"}
        seen.append(views["image"].amax(dim=(1, 2, 3)) > 0.5)
    assert torch.stack(seen).float().mean() > 0.8


def test_a_view_is_drawn_by_its_key_in_any_process():
    crop = MultiCropd("image", (8, 8, 8), (4, 4, 4), intensity=view_intensity("mr_0_to_1"))
    scans = [{"image": torch.rand(1, 12, 12, 12, generator=torch.Generator().manual_seed(n))} for n in range(4)]
    made = []
    for workers in (0, 2):
        dataset = KeyedDataset(CacheDataset(scans, crop, progress=False), seed=1)
        loader = DataLoader(dataset, batch_size=2, sampler=KeyedSampler(4, seed=1), num_workers=workers)
        made.append([(batch["image"], batch["local"]) for batch in loader])
    for (image, local), (other_image, other_local) in zip(*made, strict=True):
        assert torch.equal(image, other_image) and torch.equal(local, other_local)
        assert not torch.equal(image[:, 0], image[:, 1])


@pytest.mark.parametrize("name", ["mr_0_to_1", "ct_lung", "us_0_to_1", "zscore"])
@pytest.mark.parametrize("dims", [2, 3])
def test_intensities_change_and_their_order_of_size_does_not(name: str, dims: int):
    image = torch.rand(2, *(8,) * dims, generator=torch.Generator().manual_seed(0))
    augment = view_intensity(name)
    one, again, other = (torch.as_tensor(augment.set_random_state(seed=seed)(image)) for seed in (1, 1, 2))
    assert one.shape == image.shape and torch.isfinite(one).all() and one.abs().max() < 3
    assert torch.equal(one, again) and not torch.equal(one, other)
    if name.startswith("ct"):
        assert 0 <= one.min() and one.max() <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"local_size": (16, 8)}, "expected local crops no larger than the global ones"),
        ({"local_size": (4,)}, "expected local crops no larger than the global ones"),
        ({"views": [0, 4]}, "one global view or more"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        MultiCropd(**({"keys": "image", "global_size": (8, 8), "local_size": (4, 4)} | settings))


@pytest.mark.parametrize("shape", [(7, 8), (8, 8, 8)])
def test_a_crop_larger_than_the_scan_is_refused_in_one_line(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"expected an image of the size of a global crop \(8, 8\) or more") as caught:
        MultiCropd("image", (8, 8), (4, 4))({"image": torch.zeros(1, *shape)})
    assert "\n" not in str(caught.value)


def test_all_pairs_of_views_differ():
    crop = MultiCropd("image", (12, 12), (12, 12), views=[2, 2]).set_random_state(seed=3)
    item = crop({"image": torch.rand(1, 24, 24)})
    assert not any(torch.equal(a, b) for a, b in itertools.combinations([*item["image"], *item["local"]], 2))
