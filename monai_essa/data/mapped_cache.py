# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Preprocess each scan once: what deterministic transforms made lies on disk, and crops read their own voxels only."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from monai.data import CacheDataset, Dataset
from monai.transforms import Compose, RandomizableTrait, Transform
from tqdm import tqdm

from monai_essa.data.content_key import file_key, settings_key
from monai_essa.data.packed_item import pack_item, unpack_item

__all__ = ["MappedDataset", "cached_dataset"]

logger = logging.getLogger(__name__)
_UNFINISHED = ".cached_volume_"  # begins the name of a half-written file; the folder may hold files of others
_ABANDONED = 3600.0  # seconds after which a half-written file belongs to nobody


class MappedDataset(Dataset):
    """Keep what the deterministic transforms made in a folder, and map it into memory instead of reading it.

    The transforms before the first random one run once for each scan, when the data set is made; a crop then costs
    the pages under it. Samples are those of ``CacheDataset``, bit for bit, and need hardly any memory; pages that are
    read often stay in the system's file cache, shared by all processes.

    A file is named by a hash of the transforms, their sources and settings, and of the scan's path, size and time:
    another spacing or a replaced scan makes a new file, and no file name tells a patient's. Files are written under
    another name and renamed, so a killed run leaves no half one and several runs may share the folder. They are plain
    safetensors of float32 voxels, readable by their owner only; delete the folder when no run uses it. An item that
    is read back keeps its affine and the operations that MONAI's ``Invertd`` undoes.

    Args:
        data: items of a data list.
        transform: MONAI transforms, the deterministic ones first.
        cache_dir: the folder; made if it is not there.
        num_workers: threads that fill it.
        progress: show a bar while they do.

    Raises:
        OSError: if the volumes do not fit on the disk.
        TypeError: if a deterministic transform holds a lambda, or makes what a file cannot hold.

    Example:
        >>> import torch
        >>> from monai.transforms import RandSpatialCropd, ScaleIntensityd
        >>> transforms = [ScaleIntensityd("image"), RandSpatialCropd("image", 2, random_size=False)]
        >>> scans = [{"image": torch.arange(27.0).reshape(1, 3, 3, 3)}]
        >>> MappedDataset(scans, transforms, tempfile.mkdtemp(), progress=False)[0]["image"].shape
        torch.Size([1, 2, 2, 2])
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Compose | Sequence[Callable[..., Any]],
        cache_dir: str | Path,
        num_workers: int = 2,
        progress: bool = True,
    ) -> None:
        super().__init__(data, transform if isinstance(transform, Compose) else Compose(transform))
        self.cache_dir = Path(cache_dir)
        self._first_random = self.transform.get_index_of_first(
            lambda step: isinstance(step, RandomizableTrait) or not isinstance(step, Transform)
        )
        settings = settings_key(self.transform.transforms[: self._first_random])
        self._files = [self.cache_dir / f"{settings}-{file_key(item)}.safetensors" for item in data]
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        self._clear_abandoned()
        self._fill(num_workers, progress)

    def _transform(self, index: int) -> Any:
        item = unpack_item(self._files[index], self.data[index])
        return item if self._first_random is None else self.transform(item, start=self._first_random)

    def _fill(self, num_workers: int, progress: bool) -> None:
        missing = [index for index, file in enumerate(self._files) if not file.is_file()]
        if not missing:
            logger.info(f"cache: all {len(self._files)} volumes are in {self.cache_dir}")
            return
        first = self._write(missing[0])
        self._announce(len(missing), first)
        with ThreadPool(max(1, num_workers)) as pool:
            rest = pool.imap_unordered(self._write, missing[1:])
            for _ in tqdm(rest, "filling the cache", len(missing) - 1, disable=None if progress else True):
                pass

    def _announce(self, count: int, size: int) -> None:
        needed, free = count * size, shutil.disk_usage(self.cache_dir).free
        what = f"cache: {count} of {len(self._files)} volumes to write, about {needed / 1e9:.2f} GB"
        if needed - size > free:
            raise _no_room(self.cache_dir, what, needed - size, free)
        logger.info(f"{what}, in {self.cache_dir} ({free / 1e9:.1f} GB free)")

    def _write(self, index: int) -> int:
        """Make a file unless another process has, and give its size."""
        file = self._files[index]
        if not file.is_file():
            item = self.transform(self.data[index], end=self._first_random, threading=True)
            _write_whole(file, pack_item(item, self.data[index]))
        return file.stat().st_size

    def _clear_abandoned(self) -> None:
        for partial in self.cache_dir.glob(f"{_UNFINISHED}*.partial"):
            if time.time() - partial.stat().st_mtime > _ABANDONED:
                partial.unlink(missing_ok=True)


def cached_dataset(
    data: Sequence[Mapping[str, Any]],
    transform: Compose,
    cache_rate: float = 1.0,
    cache_dir: str | Path | None = None,
    num_workers: int = 2,
    progress: bool = True,
) -> CacheDataset | MappedDataset:
    """Keep preprocessed scans in memory, or with a folder on disk.

    Args:
        data: items of a data list.
        transform: MONAI transforms, the deterministic ones first.
        cache_rate: share of the scans that memory holds; the others are made anew each time. Without meaning for a
            folder, which holds all.
        cache_dir: the folder; None: memory.
        num_workers: threads that fill the cache.
        progress: show a bar while they do.

    Returns:
        MONAI's ``CacheDataset`` or a :class:`MappedDataset`.

    Raises:
        OSError: if the volumes do not fit on the disk.
        TypeError: as for :class:`MappedDataset`.

    Example:
        >>> from monai.transforms import ScaleIntensityd
        >>> cached_dataset([], Compose([ScaleIntensityd("image")]), cache_dir=tempfile.mkdtemp()).data
        []
    """
    if cache_dir is not None:
        return MappedDataset(data, transform, cache_dir, num_workers, progress)
    return CacheDataset(data, transform, cache_rate=cache_rate, num_workers=num_workers, progress=progress)


def _write_whole(file: Path, content: bytes) -> None:
    what, free = f"{file.name}", shutil.disk_usage(file.parent).free
    if len(content) > free:
        raise _no_room(file.parent, what, len(content), free)
    handle, temporary = tempfile.mkstemp(prefix=_UNFINISHED, suffix=".partial", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as partial:
            partial.write(content)
            partial.flush()
            os.fsync(partial.fileno())
        os.replace(temporary, file)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _no_room(file.parent, what, len(content), shutil.disk_usage(file.parent).free) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _no_room(folder: Path, what: str, needed: int, free: int) -> OSError:
    room = f"expected {needed / 1e9:.2f} GB free in {folder}, got {free / 1e9:.2f}"
    return OSError(f"{what}: {room}; free some, give another cache_dir, or leave it out and lower cache_rate")
