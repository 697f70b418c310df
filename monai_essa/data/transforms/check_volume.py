# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The first transforms of a chain: refuse volumes that no stage may read, map label ids, drop the axis of a slice."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey, convert_to_dst_type

from monai_essa.data.lists.fields import NEAR, check_label_map
from monai_essa.data.readers.volume import SAME_GRID, corner_shift

__all__ = ["CheckVolumed", "DropSliceAxisd", "MapLabelIdsd", "file_of"]

_SHORTEST, _LONGEST = 1.0, 10_000.0  # mm, of the longest side: spacing in metres or micrometres lies beyond


class CheckVolumed(MapTransform):
    """Check images, and the label that lies on them, right after loading; nothing is changed.

    Place it after ``LoadImaged`` and ``EnsureChannelFirstd``, before any transform that resamples. The bundles'
    ``inference.yaml`` refuses the same images with the same messages, through components of MONAI.

    Args:
        keys: of the images, each (C, spatial...).
        label_key: of the label map (1, spatial...); ``None`` where there is none.
        in_channels: the channels that the network takes; ``None`` for any number.
        spatial_dims: 2 or 3.
        num_classes: the network's output classes, background included: label ids must be 0 to ``num_classes - 1``;
            ``None`` for any ids.
        allow_missing_keys: pass over keys that an item lacks.

    Raises:
        ValueError: when called, if an image has another number of spatial dimensions or channels, NaN, infinite or
            constant voxels, an affine that is not finite or cannot be inverted, or if the longest side of a volume is
            not 1 to 10,000 mm; if the label has another shape or affine than the first image, values that are not ids,
            or ids beyond ``num_classes``. Where one of two 2-D files is a picture, whose affine is the identity, the
            affines are not compared. The message is one line with the file.

    Example:
        >>> CheckVolumed(keys="image", in_channels=1)({"image": torch.zeros(1, 4, 4, 4)})
        Traceback (most recent call last):
        ValueError: image: every voxel is 0; leave out the file
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str | None = None,
        in_channels: int | None = 1,
        spatial_dims: int = 3,
        num_classes: int | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_key = label_key
        self.in_channels = in_channels
        self.spatial_dims = spatial_dims
        self.num_classes = num_classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item as it came.

        Args:
            data: an item with the keys.

        Returns:
            A shallow copy of the item.

        Raises:
            ValueError: as the class says.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            self._check_image(item[key], file_of(item[key], key))
        if self.label_key is not None and (self.label_key in item or not self.allow_missing_keys):
            image, label = item[self.first_key(item)], item[self.label_key]
            _check_label_grid(image, label, file_of(label, self.label_key))
            self._check_ids(label, file_of(label, self.label_key))
        return item

    def _check_image(self, image: torch.Tensor, file: str) -> None:
        spatial = image.ndim - 1
        if spatial != self.spatial_dims:
            msg = (
                f"{file}: expected {self.spatial_dims} spatial dimensions after the channels, got {tuple(image.shape)}"
            )
            raise ValueError(f"{msg}; leave out or split the file")
        if self.in_channels is not None and image.shape[0] != self.in_channels:
            msg = f"{file}: expected in_channels={self.in_channels}, got {image.shape[0]} (a 4-D file?)"
            raise ValueError(f"{msg}; split the file or set in_channels")
        low, high = (value.item() for value in torch.aminmax(image.as_subclass(torch.Tensor)))
        if not (float("-inf") < low <= high < float("inf")):
            raise ValueError(f"{file}: some voxels are NaN or infinite; repair or leave out the file")
        if low == high:
            raise ValueError(f"{file}: every voxel is {low:g}; leave out the file")
        if isinstance(image, MetaTensor):
            _check_affine(image, file)
            if self.spatial_dims == 3:
                _check_size(image, file)

    def _check_ids(self, label: torch.Tensor, file: str) -> None:
        values = label.as_subclass(torch.Tensor)
        low, high = (value.item() for value in torch.aminmax(values))
        if not (low >= 0 and torch.equal(values, values.round())):
            raise ValueError(
                f"{file}: expected ids 0, 1, 2 ..., got fractions, negative numbers or NaN; correct the label"
            )
        if self.num_classes is not None and high >= self.num_classes:
            msg = f"{file}: expected ids 0 to {self.num_classes - 1}, got {high:g}"
            raise ValueError(f"{msg}; correct the label or the number of classes")


def file_of(volume: torch.Tensor, key: Hashable) -> str:
    """Return the file that a volume was read from, for the line of an error.

    Args:
        volume: perhaps with metadata.
        key: of the volume in its item, returned where the metadata names no file.
    """
    meta = volume.meta if isinstance(volume, MetaTensor) else {}
    return str(meta.get(ImageMetaKey.FILENAME_OR_OBJ, key))


class DropSliceAxisd(MapTransform):
    """Drop the last axis of images that have one axis too many, if it holds one voxel.

    DICOM and NIfTI keep a 2-D image as a volume of one slice, (channel, x, y, 1), where PNG gives (channel, x, y). An
    image with the right number of axes stays as it is, and so does a volume of several slices, which
    :class:`~monai_essa.data.transforms.CheckVolumed` then refuses.

    Args:
        keys: of the images, each (C, spatial...).
        spatial_dims: axes that an image should have after the channels.
        allow_missing_keys: pass over keys that an item lacks.

    Example:
        >>> import torch
        >>> DropSliceAxisd(keys="image", spatial_dims=2)({"image": torch.zeros(1, 8, 6, 1)})["image"].shape
        torch.Size([1, 8, 6])
    """

    def __init__(self, keys: KeysCollection, spatial_dims: int = 2, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spatial_dims = spatial_dims

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its single slices as 2-D images.

        Args:
            data: an item with the keys.

        Returns:
            A shallow copy of the item.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            if item[key].ndim == self.spatial_dims + 2:
                item[key] = item[key].squeeze(-1)
        return item


class MapLabelIdsd(MapTransform):
    """Replace voxel values by the ids that they stand for, and round what is within 0.001 of a whole number.

    Place it right after ``LoadImaged`` and before :class:`~monai_essa.data.transforms.CheckVolumed`, which refuses
    negative ids and ids beyond the number of classes.

    Args:
        keys: of the label maps.
        label_map: ids by value, as ``{255: 1}``; values that it does not name stay. ``None`` for none.
        allow_missing_keys: pass over keys that an item lacks.

    Raises:
        ValueError: at once, if ``label_map`` is not such a table; when called, if a value is neither in the table
            nor within 0.001 of a whole number. The message is one line with the file and the value.

    Example:
        >>> MapLabelIdsd("label", {255: 1})({"label": torch.tensor([0.0, 255.0])})["label"]
        tensor([0., 1.])
    """

    def __init__(
        self, keys: KeysCollection, label_map: Mapping[Any, int] | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_map = check_label_map(label_map, "label_map")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with ids.

        Args:
            data: an item with the keys.

        Returns:
            A shallow copy of the item with new label maps.

        Raises:
            ValueError: as the class says.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self._ids(item[key], key)
        return item

    def _ids(self, label: torch.Tensor, key: Hashable) -> torch.Tensor:
        values = torch.as_tensor(label).as_subclass(torch.Tensor)
        ids = values.round() if values.is_floating_point() else values.clone()
        odd = (values - ids).abs() > NEAR
        odd |= values.isnan() if values.is_floating_point() else False
        for value, number in self.label_map.items():
            same = (values - value).abs() <= NEAR
            ids[same] = number
            odd &= ~same
        if odd.any():
            value = values[odd][0].item()
            raise ValueError(
                f"{file_of(label, key)}: expected ids 0, 1, 2 ..., got {value!r}; resample labels with nearest "
                "neighbour, or give a label_map"
            )
        return convert_to_dst_type(ids, label)[0]


def _check_affine(volume: MetaTensor, file: str) -> None:
    affine = volume.affine
    if not (bool(torch.isfinite(affine).all()) and int(torch.linalg.matrix_rank(affine)) == len(affine)):
        msg = f"{file}: the affine is not finite or cannot be inverted"
        raise ValueError(f"{msg}; repair the header or leave out the file")


def _check_size(volume: MetaTensor, file: str) -> None:
    side = max(spacing * count for spacing, count in zip(volume.pixdim.tolist(), volume.shape[1:], strict=True))
    if not _SHORTEST <= side <= _LONGEST:
        msg = f"{file}: the longest side is {side:g} mm, expected {_SHORTEST:g} to {_LONGEST:g}"
        raise ValueError(f"{msg}; correct the spacing in the header")


def _has_place(image: MetaTensor) -> bool:
    """Say whether a 2-D image lies somewhere in the body; a picture does not."""
    return not torch.equal(image.affine, torch.eye(len(image.affine), dtype=image.affine.dtype))


def _check_label_grid(image: torch.Tensor, label: torch.Tensor, file: str) -> None:
    if label.shape[0] != 1 or label.shape[1:] != image.shape[1:]:
        msg = f"{file}: expected the image's shape {(1, *image.shape[1:])}, got {tuple(label.shape)}"
        raise ValueError(f"{msg}; resample the label to the image, or pair it with its own")
    if isinstance(image, MetaTensor) and isinstance(label, MetaTensor):
        _check_affine(label, file)
        if image.ndim == 3 and not (_has_place(image) and _has_place(label)):
            return
        shift = corner_shift(image.shape[1:], image.affine.cpu().numpy(), label.affine.cpu().numpy())
        if shift > SAME_GRID:
            msg = f"{file}: expected the image's affine, got one that moves a corner by {shift:.1f} voxels"
            raise ValueError(f"{msg}; copy the image's affine if the voxels fit, else resample the label")
