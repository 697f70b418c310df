# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Turn the voxel values of label maps into ids: 0 and 255 into 0 and 1, 0.99999994 into 1."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type

from monai_essa.data.lists.label_map import NEAR, check_label_map
from monai_essa.data.transforms.check_volume import file_of

__all__ = ["MapLabelIdsd"]


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
