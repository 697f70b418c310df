# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the hashes that name the files of the mapped cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import LoadImaged, ScaleIntensityRanged, Spacingd

from monai_essa.data.loading import cache
from monai_essa.data.loading.cache import file_key, settings_key
from tests.forked import run_python

CHAIN = "[LoadImaged('image', reader='monai_essa.data.VolumeReader'), Spacingd('image', (1, 1, 2))]"


class Times:
    def __init__(self, factor: object) -> None:
        self.factor = factor


def test_another_process_gives_the_same_key() -> None:
    here = settings_key([LoadImaged("image", reader="monai_essa.data.VolumeReader"), Spacingd("image", (1, 1, 2))])
    script = "from monai.transforms import *; from monai_essa.data.loading.cache import settings_key; "
    done = run_python("-c", f"{script}print(settings_key({CHAIN}))", check=True)  # its hashes of text are others
    assert done.stdout.split()[-1] == here


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([Spacingd("image", (1, 1, 2))], [Spacingd("image", (1, 1, 1))]),
        ([ScaleIntensityRanged("image", 0, 1, 0, 1)], [ScaleIntensityRanged("image", 0, 1, 0, 1, clip=True)]),
        ([Times(np.array([1, 2]))], [Times(np.array([1, 3]))]),
        ([Times({"a": {1, 2}})], [Times({"a": {1, 3}})]),
        ([Times(1), Times(2)], [Times(2), Times(1)]),
        ([Times(1)], [Times(1), Times(1)]),
        ([Times(os.path.join)], [Times(os.path.split)]),
    ],
)
def test_another_setting_gives_another_key(one: list[Any], other: list[Any]) -> None:
    assert settings_key(one) != settings_key(other)


def test_objects_that_hold_each_other_end() -> None:
    loop = Times(None)
    loop.factor = [loop]
    assert settings_key([loop]) != settings_key([Times(None)])


def test_what_is_used_keeps_its_key() -> None:
    step = ScaleIntensityRanged("image", 0, 1, 0, 1)
    before = settings_key([step])
    step({"image": np.ones((1, 2, 2), dtype=np.float32)})
    assert settings_key([step]) == before


def test_another_source_gives_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    keys = []
    for factor in (1, 2):
        name = f"own_transform_{factor}"
        (tmp_path / f"{name}.py").write_text(f"class Own:\n    def __call__(self, x):\n        return {factor} * x\n")
        own = __import__(name).Own
        own.__module__ = name
        own.__qualname__ = "Own"
        keys.append(settings_key([own()]).replace(name, ""))
    assert keys[0] != keys[1]


def test_another_source_of_one_format_gives_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [LoadImaged(keys="image", reader="monai_essa.data.VolumeReader")]
    before, read = settings_key(parts), Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"#" if path.name == "nifti.py" else b""))
    cache._source.cache_clear()
    try:
        assert settings_key(parts) != before
    finally:
        cache._source.cache_clear()


def test_a_lambda_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot tell .*<lambda> from others; name the function"):
        settings_key([Times(lambda x: x)])


def test_what_has_no_attributes_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot tell two generator apart; leave cache_dir out"):
        settings_key([Times(x for x in "ab")])


def test_a_file_that_changed_has_another_key(tmp_path: Path) -> None:
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes(b"one")
    item = {"image": str(scan)}
    before = file_key(item)
    assert file_key(item) == before
    os.utime(scan, ns=(1, 1))
    after = file_key(item)
    scan.write_bytes(b"one more")
    os.utime(scan, ns=(1, 1))
    assert len({before, after, file_key(item)}) == 3


def test_folders_lists_and_npz_names_count_by_their_files(tmp_path: Path) -> None:
    series, arrays = tmp_path / "series", tmp_path / "scans.npz"
    series.mkdir()
    for file in (series / "1", series / "2", arrays):
        file.write_bytes(b"one")
    items = [{"image": str(series)}, {"image": [str(series / "1"), str(series / "2")]}, {"image": f"{arrays}#images#1"}]
    before = [file_key(item) for item in items]
    assert file_key({"image": f"{arrays}#images#2"}) != before[2]
    for file in (series / "2", arrays):
        os.utime(file, ns=(1, 1))
    assert not set(before) & {file_key(item) for item in items}


def test_values_that_are_no_files_count() -> None:
    assert len({file_key({"image": "a", "label": label}) for label in (0, 1, "1", [1, 0])}) == 4


def test_large_arrays_count_by_every_element() -> None:
    image = torch.zeros(10_000)
    before = file_key({"image": image})
    image[5_000] = 1
    assert file_key({"image": image}) != before
