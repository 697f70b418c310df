# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A cache of preprocessed items on the disk, mapped into memory and shared by all workers.

Its keys are hashes of transforms and items, equal in every process. They change with a setting, a source or a file.
"""

from __future__ import annotations

import errno
import functools
import inspect
import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.data import CacheDataset, Dataset, MetaTensor
from monai.transforms import Compose, RandomizableTrait, Transform
from monai.utils import SpaceKeys, TraceKeys
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tqdm import tqdm

from monai_essa.data.readers.npz import npz_file
from monai_essa.files import short_digest, unfinished, written_whole

__all__ = ["MappedDataset", "cached_dataset", "file_key", "pack_item", "settings_key", "unpack_item"]

logger = logging.getLogger(__name__)
_VOLUMES = "*.safetensors"  # the folder may hold files of others
_ABANDONED = 3600.0  # seconds after which a half-written file belongs to nobody
_OURS = "monai_essa."
_PLAIN = (type(None), bool, int, float, str, bytes, torch.dtype, torch.device, np.dtype, np.generic, slice, range)


class MappedDataset(Dataset):
    """Keep what the deterministic transforms made in a folder, and map it into memory instead of reading it.

    The transforms before the first random one run once for each scan, when the data set is made; a crop then costs
    the pages under it. Samples are those of ``CacheDataset``, bit for bit, and need hardly any memory: the system's
    file cache, which all processes share, keeps the pages that are read often.

    A file is named by a hash of the transforms, their sources and settings, and of the scan's path, size and time:
    another spacing or a replaced scan makes a new file, and no file name reveals the name of a patient. Files are
    written under another name and renamed, so a killed run leaves no half-written one and several runs may share the
    folder. They are plain safetensors of float32 voxels, readable by their owner only; delete the folder when no run
    uses it. Items keep their affine and the operations that MONAI's ``Invertd`` undoes.

    Args:
        data: items of a data list.
        transform: MONAI transforms, the deterministic ones first.
        cache_dir: the folder; made if missing.
        num_workers: threads that fill it.
        progress: show a bar while they do.

    Raises:
        OSError: if the volumes do not fit on the disk.
        TypeError: if a deterministic transform holds a lambda, or makes what a file cannot hold.

    Example:
        >>> import tempfile
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
        """Write a file unless another process has, and return its size."""
        file = self._files[index]
        if not file.is_file():
            item = self.transform(self.data[index], end=self._first_random, threading=True)
            _write_whole(file, pack_item(item, self.data[index]))
        return file.stat().st_size

    def _clear_abandoned(self) -> None:
        for partial in unfinished(self.cache_dir, _VOLUMES):
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
    """Keep preprocessed scans in memory, or on disk if a folder is named.

    Args:
        data: items of a data list.
        transform: MONAI transforms, the deterministic ones first.
        cache_rate: share of the scans that memory holds; the others are made anew each time. A folder holds all scans
            whatever the share.
        cache_dir: the folder; None: memory.
        num_workers: threads that fill the cache.
        progress: show a bar while they do.

    Returns:
        MONAI's ``CacheDataset`` or a :class:`MappedDataset`.

    Raises:
        OSError, TypeError: as for :class:`MappedDataset`.

    Example:
        >>> cached_dataset([], Compose([])).data
        []
    """
    if cache_dir is not None:
        return MappedDataset(data, transform, cache_dir, num_workers, progress)
    return CacheDataset(data, transform, cache_rate=cache_rate, num_workers=num_workers, progress=progress)


def pack_item(item: Mapping[str, Any], listed: Mapping[str, Any]) -> bytes:
    """Return the content of the file: tensors as they are, and one JSON text that says how the item is made of them.

    Texts, file names above all, stay out: what equals a value of ``listed`` is taken from there when the file is read;
    other texts of the metadata are dropped. The operations that MONAI's ``Invertd`` undoes are kept without the
    identities of the transforms, which are valid in one process only.

    Args:
        item: tensors with or without metadata, arrays, numbers and values of ``listed``.
        listed: the item of the data list that it was made of.

    Returns:
        The bytes of a safetensors file.

    Raises:
        TypeError: if the item holds anything else.
    """
    tensors: dict[str, torch.Tensor] = {}
    parts = {key: _packed(key, value, listed, tensors) for key, value in item.items()}
    for key, part in parts.items():
        if part is None:
            msg = f"a cache on disk keeps tensors and numbers, got {type(item[key]).__name__} for {key!r}"
            raise TypeError(f"{msg}; drop the key by SelectItemsd, or leave cache_dir out")
    return save(tensors, {"item": json.dumps(parts)})


def unpack_item(path: Path, listed: Mapping[str, Any]) -> dict[str, Any]:
    """Open a file of :func:`pack_item`; voxels are read from the disk when something looks at them.

    Args:
        path: the file.
        listed: as it was given to :func:`pack_item`.

    Returns:
        The item. Writing to its tensors changes the copy in memory, never the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            parts = json.loads(file.metadata()["item"])
        return {key: _unpacked(part, listed, tensors) for key, part in parts.items()}
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        msg = f"{path}: the cache file is damaged ({reason}); delete it, and the next run makes it anew"
        raise ValueError(msg) from error


def settings_key(parts: Iterable[Any]) -> str:
    """Hash transforms by their classes, the source code of these, their settings, and MONAI's version.

    Args:
        parts: transforms, or any objects whose attributes are plain values, arrays and such objects.

    Returns:
        32 hexadecimal digits.

    Raises:
        TypeError: if a transform holds something that cannot be described across processes, such as a lambda.

    Example:
        >>> from monai.transforms import ScaleIntensity
        >>> first, same, other = (settings_key([ScaleIntensity(0, highest)]) for highest in (1, 1, 2))
        >>> first == same, first == other
        (True, False)
    """
    return short_digest("\0".join([monai.__version__, *(_described(part, ()) for part in parts)]))


def file_key(item: Mapping[str, Any]) -> str:
    """Hash an item of a data list by its values and, where they name files, by place, size and time of these.

    Args:
        item: paths, lists of paths, folders, names in NPZ files and plain values.

    Returns:
        32 hexadecimal digits; no name can be read from them.
    """
    return short_digest("\0".join(f"{key}={_state(item[key])}" for key in sorted(item)))


def _write_whole(file: Path, content: bytes) -> None:
    free = shutil.disk_usage(file.parent).free
    if len(content) > free:
        raise _no_room(file.parent, file.name, len(content), free)
    try:
        with written_whole(file) as temporary:
            temporary.chmod(0o600)  # scans: for the owner alone
            temporary.write_bytes(content)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _no_room(file.parent, file.name, len(content), shutil.disk_usage(file.parent).free) from error


def _no_room(folder: Path, what: str, needed: int, free: int) -> OSError:
    room = f"expected {needed / 1e9:.2f} GB free in {folder}, got {free / 1e9:.2f}"
    return OSError(f"{what}: {room}; free some, choose another cache_dir, or leave it out and lower cache_rate")


def _packed(
    name: str, value: Any, listed: Mapping[str, Any], tensors: dict[str, torch.Tensor]
) -> dict[str, Any] | None:
    if isinstance(value, np.ndarray | torch.Tensor):
        # A copy, since safetensors refuses tensors that share memory, as affines do.
        tensors[name] = torch.as_tensor(value).clone(memory_format=torch.contiguous_format)
    if isinstance(value, MetaTensor):
        tensors[name] = tensors[name].as_subclass(torch.Tensor)
        meta = {key: _packed(f"{name}.{key}", held, listed, tensors) for key, held in value.meta.items()}
        operations = _packed_operation(f"{name}.operations", value.applied_operations, tensors)
        kept = {key: part for key, part in meta.items() if part is not None}
        return {"tensor": name, "meta": kept, "operations": operations}
    if isinstance(value, np.ndarray | torch.Tensor):
        return {"array" if isinstance(value, np.ndarray) else "tensor": name}
    if isinstance(value, SpaceKeys):
        return {"value": value.value}
    if isinstance(value, np.number | np.bool_):
        return {"value": value.item()}
    if value is None or isinstance(value, bool | int | float):
        return {"value": value}
    for key, held in listed.items():
        if type(held) is type(value) and held == value:
            return {"listed": key}
        if isinstance(value, str) and value == _first_text(held):
            return {"first": key}
    return None


def _packed_operation(name: str, value: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Pack what MONAI notes of an invertible transform; its texts are names of classes and of interpolation modes."""
    if isinstance(value, Mapping):
        known = {str(key): TraceKeys.NONE if key == TraceKeys.ID else held for key, held in value.items()}
        return {"mapping": {key: _packed_operation(f"{name}.{key}", held, tensors) for key, held in known.items()}}
    if isinstance(value, list | tuple):
        parts = [_packed_operation(f"{name}.{number}", held, tensors) for number, held in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": parts}
    if isinstance(value, str):
        return {"value": str(value)}
    part = _packed(name, value, {}, tensors)
    if part is None:
        raise TypeError(f"a cache on disk cannot keep a {type(value).__name__} of an operation; leave cache_dir out")
    return part


def _unpacked(part: Mapping[str, Any], listed: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
    if "value" in part:
        return part["value"]
    if "listed" in part:
        return listed[part["listed"]]
    if "first" in part:
        return _first_text(listed[part["first"]])
    if "array" in part:
        return tensors[part["array"]].numpy()
    if "mapping" in part:
        return {key: _unpacked(held, listed, tensors) for key, held in part["mapping"].items()}
    for kind in (list, tuple):
        if kind.__name__ in part:
            return kind(_unpacked(held, listed, tensors) for held in part[kind.__name__])
    tensor = tensors[part["tensor"]]
    if "meta" not in part:
        return tensor
    meta = {key: _unpacked(held, listed, tensors) for key, held in part["meta"].items()}
    return MetaTensor(tensor, meta=meta, applied_operations=_unpacked(part["operations"], listed, tensors))


def _first_text(held: Any) -> str:
    """Name the file of an item as ``LoadImage`` does in the metadata: the first of several."""
    return str(held[0] if isinstance(held, list | tuple) and held else held)


def _state(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_state, value))}]"
    path = Path(npz_file(value)) if isinstance(value, str | Path) else None
    if path is None or not path.exists():
        return _described(value, ())
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    states = (file.stat() for file in files)
    return f"{Path(value).resolve()} {[(state.st_size, state.st_mtime_ns) for state in states]}"


def _described(value: Any, within: tuple[int, ...]) -> str:
    """Describe a value; ``within`` holds the objects around it, since transforms may refer to each other."""
    if isinstance(value, Enum | type):
        return _named(value)
    if isinstance(value, Path) or isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, np.ndarray | torch.Tensor):
        array = np.asarray(value)
        return f"{array.dtype}{array.shape}{short_digest(array.tobytes(), size=64)}"
    if id(value) in within:
        return f"<{within.index(id(value))}>"
    return f"{type(value).__qualname__}({', '.join(_contents(value, (*within, id(value))))})"


def _contents(value: Any, within: tuple[int, ...]) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from sorted(f"{_described(key, within)}: {_described(held, within)}" for key, held in value.items())
    elif isinstance(value, set | frozenset):
        yield from sorted(_described(held, within) for held in value)
    elif isinstance(value, list | tuple):
        yield from (_described(held, within) for held in value)
    elif inspect.isfunction(value) or inspect.isbuiltin(value):
        yield _named(value)
    elif hasattr(value, "__dict__"):
        yield from (_named(type(value)), *_contents(vars(value), within))
    else:
        raise TypeError(f"a cache on disk cannot tell two {type(value).__name__} apart; leave cache_dir out")


def _named(value: Any) -> str:
    """Name a class, a function or a member of an enumeration, with a hash of the file that defines it."""
    if isinstance(value, Enum):
        return f"{_named(type(value))}.{value.name}"
    name = f"{value.__module__}.{value.__qualname__}"
    if "<" in value.__qualname__:
        raise TypeError(f"a cache on disk cannot tell {name} from others; name the function, or leave cache_dir out")
    return f"{name} {_source(value.__module__)}"


@functools.cache
def _source(module: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    if not file:
        return ""
    # A class of ours leans on the modules beside it, as the reader of all files does on that of each format.
    sources = sorted(Path(file).parent.glob("*.py")) if module.startswith(_OURS) else [Path(file)]
    return short_digest(*(source.read_bytes() for source in sources), size=8)
