# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the file of a preprocessed item."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientationd, Spacingd, SpatialPadd
from monai.utils import SpaceKeys
from safetensors.torch import save

from monai_essa.data.loading.cache import pack_item, unpack_item

SCAN = "/clinic/Doe^Jane/t1.nii.gz"


@pytest.fixture
def item() -> dict[str, Any]:
    meta = {
        "original_affine": np.diag([2.0, 2.0, 0.1, 1.0]),
        "spatial_shape": np.array([3, 4, 5]),
        "original_channel_dim": float("nan"),
        "space": SpaceKeys.RAS,
        "filename_or_obj": SCAN,
        "descrip": "Doe^Jane",
    }
    image = MetaTensor(torch.rand(1, 3, 4, 5), affine=torch.diag(torch.tensor([1, 1, 0.3, 1.0])), meta=meta)
    return {"image": image, "foreground": image > 0.5, "label": torch.tensor(1), "indices": np.arange(3), "age": 61.5}


def written(item: dict[str, Any], listed: dict[str, Any], folder: Path) -> Path:
    path = folder / "item.safetensors"
    path.write_bytes(pack_item(item, listed))
    return path


@pytest.mark.parametrize("listed", [SCAN, Path(SCAN), [SCAN, "/clinic/Doe^Jane/t2.nii.gz"]])
def test_an_item_comes_back_as_it_was(item: dict[str, Any], listed: Any, tmp_path: Path) -> None:
    back = unpack_item(written(item, {"image": listed}, tmp_path), {"image": listed})
    assert list(back) == list(item)
    for key in ("image", "foreground"):
        assert torch.equal(back[key].as_tensor(), item[key].as_tensor())
        assert back[key].dtype == item[key].dtype
        assert torch.equal(back[key].affine, item[key].affine)
        assert back[key].meta["filename_or_obj"] == SCAN
        assert list(back[key].meta) == [name for name in item[key].meta if name != "descrip"]
    assert back["image"].meta["space"] == SpaceKeys.RAS
    assert isinstance(back["image"].meta["spatial_shape"], np.ndarray)
    assert np.isnan(back["image"].meta["original_channel_dim"])
    assert (back["label"], back["age"]) == (torch.tensor(1), 61.5)
    assert not isinstance(back["label"], MetaTensor)
    assert back["indices"].tolist() == [0, 1, 2]


def test_no_name_is_in_the_file(item: dict[str, Any], tmp_path: Path) -> None:
    own = {"patient": "Doe^Jane", "visits": ["Doe^Jane 1", "Doe^Jane 2"]}
    path = written(item | own, {"image": SCAN} | own, tmp_path)
    assert b"Doe" not in path.read_bytes()
    back = unpack_item(path, {"image": SCAN} | own)
    assert {key: back[key] for key in own} == own


def test_writing_to_an_item_leaves_the_file_alone(item: dict[str, Any], tmp_path: Path) -> None:
    path = written(item, {"image": SCAN}, tmp_path)
    before = path.read_bytes()
    unpack_item(path, {"image": SCAN})["image"].zero_()
    assert path.read_bytes() == before


def test_what_a_file_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="got dict for 'extra'; drop the key by SelectItemsd"):
        pack_item({"image": torch.zeros(1), "extra": {}}, {"image": SCAN})


def test_a_damaged_file_is_one_line(item: dict[str, Any], tmp_path: Path) -> None:
    path = written(item, {"image": SCAN}, tmp_path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"item\.safetensors: the cache file is damaged .* delete it"):
        unpack_item(path, {"image": SCAN})


def test_a_prediction_is_brought_back_from_a_file(tmp_path: Path) -> None:
    """Invertd undoes what another process did: the file says how, without the identity of that process's transforms."""
    affine = np.diag([-1.5, 2.0, 0.7, 1.0])
    item = {"image": MetaTensor(torch.rand(1, 6, 5, 9), affine=torch.tensor(affine), meta={"filename_or_obj": SCAN})}
    made, later = (
        Compose(
            [
                Orientationd("image", axcodes="RAS", labels=None),
                Spacingd("image", pixdim=[1.0, 1.0, 1.0], mode="bilinear"),
                SpatialPadd("image", 16),
            ]
        )
        for _ in range(2)
    )
    kept = made(item)
    back = unpack_item(written(kept, {"image": SCAN}, tmp_path), {"image": SCAN})
    one, other = (
        Invertd("pred", chain, orig_keys="image")(prepared | {"pred": prepared["image"] * 2})["pred"]
        for chain, prepared in ((made, kept), (later, back))
    )
    assert other.shape == item["image"].shape
    assert torch.equal(one.as_tensor(), other.as_tensor())
    assert torch.equal(one.affine, other.affine)


def test_an_operation_that_a_file_cannot_hold_is_refused() -> None:
    image = MetaTensor(torch.zeros(1), applied_operations=[{"class": "Own", "extra_info": {"function": len}}])
    with pytest.raises(TypeError, match="cannot keep a builtin_function_or_method of an operation; leave cache_dir"):
        pack_item({"image": image}, {"image": SCAN})


@pytest.mark.parametrize(
    "metadata",
    [None, {"other": "{}"}, {"item": "no JSON"}, {"item": "[1]"}, {"item": '{"image": {"tensor": "gone"}}'}]
    + [{"item": text} for text in ('{"image": 1}', '{"image": {}}', '{"image": {"listed": "gone"}}')],
)
def test_a_file_with_another_content_is_one_line(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    (tmp_path / "item.safetensors").write_bytes(save({"x": torch.zeros(1)}, metadata))
    with pytest.raises(ValueError, match=r"item\.safetensors: the cache file is damaged .* delete it"):
        unpack_item(tmp_path / "item.safetensors", {"image": SCAN})
