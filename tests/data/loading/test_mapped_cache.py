# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the mapped cache: the same samples, only the crop read, nothing stale, nothing half written."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import sys
import time
from collections import namedtuple
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset
from monai.transforms import Compose, LoadImaged, RandFlipd, RandGaussianNoised, RandSpatialCropd, ScaleIntensityd

from monai_essa.data import KeyedDataset, KeyedSampler, MappedDataset, cached_dataset
from tests.forked import start_python

SHAPE = (256, 64, 64)  # 4 MiB of float32
CROP = (16, 64, 64)


@pytest.fixture
def scans(tmp_path: Path) -> list[dict[str, Any]]:
    """Three scans with a patient's name in their paths."""
    folder = tmp_path / "Doe^Jane"
    folder.mkdir()
    items = []
    for number in range(3):
        voxels = np.random.default_rng(number).integers(0, 900, SHAPE, dtype=np.int16)
        nib.save(nib.Nifti1Image(voxels, np.diag([1, 2, 3, 1.0])), folder / f"{number}.nii")
        items.append({"image": str(folder / f"{number}.nii"), "label": number})
    return items


def transform(top: float = 1.0) -> Compose:
    return Compose(
        [
            LoadImaged("image", reader="monai_essa.data.VolumeReader", ensure_channel_first=True),
            ScaleIntensityd("image", maxv=top),
            RandSpatialCropd("image", CROP, random_size=False),
            RandFlipd("image", prob=0.5),
            RandGaussianNoised("image", prob=0.5),
        ]
    )


def loaded(dataset: Dataset, workers: int = 0) -> list[dict[str, Any]]:
    sampler = KeyedSampler(len(dataset), samples_per_epoch=6)
    return list(DataLoader(KeyedDataset(dataset), batch_size=2, sampler=sampler, num_workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_are_those_without_a_cache(scans: list[dict[str, Any]], tmp_path: Path, workers: int) -> None:
    mapped = loaded(MappedDataset(scans, transform(), tmp_path / "cache", progress=False), workers)
    for batches in (loaded(Dataset(scans, transform())), loaded(CacheDataset(scans, transform(), progress=False))):
        for got, expected in zip(mapped, batches, strict=True):
            assert torch.equal(got["image"], expected["image"])
            assert torch.equal(got["image"].affine, expected["image"].affine)
            assert torch.equal(got["label"], expected["label"])
            assert got["image"].meta["filename_or_obj"] == expected["image"].meta["filename_or_obj"]


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks the kernel which pages were read")
def test_a_crop_reads_its_own_voxels_only(tmp_path: Path) -> None:
    large = {"image": torch.rand(1, 512, 128, 128)}  # 32 MiB
    steps = [ScaleIntensityd("image"), RandSpatialCropd("image", CROP, random_size=False)]
    sample = MappedDataset([large], steps, tmp_path / "cache", progress=False)[0]["image"]
    assert bool(torch.isfinite(sample).all())
    size, resident = mapped_bytes(tmp_path / "cache")
    assert size >= 32 * 2**20
    # The kernel brings in whole pages, of up to 2 MiB; the crop lies within 1 MiB.
    assert sample.nbytes <= resident <= 6 * 2**20


def mapped_bytes(folder: Path) -> tuple[int, int]:
    """How much of a folder's files this process maps, and how much of that it has in memory."""
    totals, within = {"Size": 0, "Rss": 0}, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name in totals:
            totals[name] += within * int(value.split()[0]) * 1024
        elif "-" in name.split()[0]:
            within = str(folder) in line
    return totals["Size"], totals["Rss"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_only_the_owner_may_read_the_scans(scans: list[dict[str, Any]], tmp_path: Path) -> None:
    MappedDataset(scans, transform(), tmp_path / "cache", progress=False)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "cache").iterdir()} == {0o600}


def test_no_name_of_a_patient_is_in_the_folder(scans: list[dict[str, Any]], tmp_path: Path) -> None:
    MappedDataset(scans, transform(), tmp_path / "cache", progress=False)
    files = list((tmp_path / "cache").iterdir())
    assert len(files) == 3
    assert not [file for file in files if "Doe" in file.name or b"Doe" in file.read_bytes()]


def test_a_filled_folder_is_used_again(scans: list[dict[str, Any]], tmp_path: Path) -> None:
    MappedDataset(scans, transform(), tmp_path / "cache", progress=False)
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}
    MappedDataset(scans, transform(), tmp_path / "cache", progress=False)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()} == times


def test_another_setting_and_another_scan_are_never_served_stale(scans: list[dict[str, Any]], tmp_path: Path) -> None:
    MappedDataset(scans, transform(), tmp_path / "cache", progress=False)
    nib.save(nib.Nifti1Image(np.eye(64, dtype=np.int16)[None].repeat(256, 0), np.eye(4)), scans[1]["image"])
    for top in (1.0, 2.0):
        got = loaded(MappedDataset(scans, transform(top), tmp_path / "cache", progress=False))
        for batch, expected in zip(got, loaded(Dataset(scans, transform(top))), strict=True):
            assert torch.equal(batch["image"], expected["image"])


def test_without_random_transforms_an_item_is_whole(scans: list[dict[str, Any]], tmp_path: Path) -> None:
    steps = transform().transforms[:2]
    item = MappedDataset(scans, steps, tmp_path / "cache", progress=False)[1]
    assert torch.equal(item["image"], Compose(steps)(scans[1])["image"])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_process_leaves_no_half_file(scans: list[dict[str, Any]], tmp_path: Path) -> None:
    many = [scans[0] | {"label": number} for number in range(200)]
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_mapped_cache as here; "
    script += f"here.MappedDataset({many!r}, here.transform(), {str(tmp_path / 'cache')!r})"
    process = start_python("-c", script)
    while process.is_alive() and len(list(tmp_path.glob("cache/*.safetensors"))) < 3:
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it filled the cache before it could be killed"
    assert {file.stat().st_size // 2**20 for file in (tmp_path / "cache").glob("*.safetensors")} == {4}

    dataset = MappedDataset(many[:20], transform(), tmp_path / "cache", progress=False)
    assert all(torch.isfinite(dataset[index]["image"]).all() for index in range(20))


def test_what_a_killed_process_left_is_cleared_after_an_hour(scans: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    names = (f".a.safetensors.{'0' * 16}.part", f".b.safetensors.{'1' * 16}.part", ".mine.safetensors.part")
    old, young, mine = (tmp_path / "cache" / name for name in names)
    for file in (old, young, mine):
        file.write_bytes(b"half")
        os.utime(file, (time.time() - 4000 * (file != young),) * 2)
    MappedDataset(scans[:1], transform(), tmp_path / "cache", progress=False)
    assert (old.exists(), young.exists(), mine.exists()) == (False, True, True)


def test_two_may_fill_a_folder_at_once(scans: list[dict[str, Any]], tmp_path: Path) -> None:
    with ThreadPool(2) as pool:
        both = pool.map(lambda _: MappedDataset(scans, transform(), tmp_path / "cache", progress=False), range(2))
    for one, other in zip(*map(loaded, both), strict=True):
        assert torch.equal(one["image"], other["image"])
    assert not list((tmp_path / "cache").glob(".*"))


def test_the_log_says_how_much_will_be_written(
    scans: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "monai_essa")
    MappedDataset(scans[:1], transform(), tmp_path / "cache", progress=False)
    MappedDataset(scans, transform(), tmp_path / "cache", progress=False)
    MappedDataset(scans, transform(), tmp_path / "cache", progress=False)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("monai_essa")]
    assert len(lines) == 3
    assert lines[1].startswith("cache: 2 of 3 volumes to write, about 0.01 GB")
    assert lines[2].startswith("cache: all 3 volumes are in")


@pytest.mark.parametrize(("free", "written"), [(1_000, 0), (6_000_000, 1)])
def test_a_disk_without_room_is_one_line(
    scans: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, written: int
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(free, 0, free))
    with pytest.raises(OSError, match=r"expected 0\.0\d GB free in .*, got 0\.0\d; free some, choose another"):
        MappedDataset(scans, transform(), tmp_path / "cache", progress=False)
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".safetensors"] * written


def test_a_disk_that_fills_up_meanwhile_is_one_line(
    scans: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="free some, choose another cache_dir"):
        MappedDataset(scans, transform(), tmp_path / "cache", progress=False)
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_a_folder_memory_holds_the_scans(scans: list[dict[str, Any]], tmp_path: Path) -> None:
    assert isinstance(cached_dataset(scans, transform(), cache_rate=0.0), CacheDataset)
    assert isinstance(cached_dataset(scans, transform(), cache_dir=tmp_path / "cache"), MappedDataset)
