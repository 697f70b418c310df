# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for turning voxel values into ids."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from monai_essa.data.transforms import MapLabelIdsd


@pytest.mark.parametrize(
    ("values", "label_map", "ids"),
    [
        ([0, 255], {255: 1}, [0, 1]),
        ([0, 1, 2, 4], {"4": 3}, [0, 1, 2, 3]),
        ([0, 0.99999994, 2.0004], None, [0, 1, 2]),
        ([-1, 0, 1], {-1: 0}, [0, 0, 1]),
        ([0, 0.0117647], {0.0117647: 1}, [0, 1]),
        ([0, 1, 2], {1: 2, 2: 1}, [0, 2, 1]),
    ],
)
def test_values_become_ids(values: list[float], label_map: dict | None, ids: list[int]) -> None:
    item = {"label": torch.tensor([values], dtype=torch.float32), "image": torch.zeros(1)}
    mapped = MapLabelIdsd("label", label_map)(item)
    assert mapped["label"].tolist() == [ids]
    assert item["label"].flatten()[-1].item() == pytest.approx(values[-1])  # the item that came is as it was
    assert mapped["image"] is item["image"]


def test_whole_numbers_keep_their_type_and_metadata() -> None:
    label = MetaTensor(torch.tensor([[0, 255]], dtype=torch.uint8), affine=2 * torch.eye(4))
    mapped = MapLabelIdsd("label", {255: 1})({"label": label})["label"]
    assert (mapped.tolist(), mapped.dtype) == ([[0, 1]], torch.uint8)
    torch.testing.assert_close(mapped.affine, label.affine)


@pytest.mark.parametrize(
    ("value", "shown"), [(0.5, "0.5"), (1.0020000934600830, "1.002000093460083"), (float("nan"), "nan")]
)
def test_a_value_between_ids_is_refused_as_it_is(value: float, shown: str) -> None:
    label = MetaTensor(torch.tensor([[0.0, value]]), meta={"filename_or_obj": "p1_seg.nii"})
    with pytest.raises(ValueError, match=rf"^p1_seg\.nii: expected ids 0, 1, 2 \.\.\., got {shown}; resample"):
        MapLabelIdsd("label", {255: 1})({"label": label})


def test_a_wrong_table_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="label_map: expected a table"):
        MapLabelIdsd("label", [255])  # type: ignore[arg-type]
