# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Hash transforms and items: equal in every process, and different once a setting, a source or a file changes."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch

from monai_essa.data.readers.npz import npz_file
from monai_essa.files import short_digest

__all__ = ["file_key", "settings_key"]

_OURS = "monai_essa."
_PLAIN = (type(None), bool, int, float, str, bytes, torch.dtype, torch.device, np.dtype, np.generic, slice, range)


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
        >>> settings_key([ScaleIntensity(0, 1)]) == settings_key([ScaleIntensity(0, 1)])
        True
        >>> settings_key([ScaleIntensity(0, 1)]) == settings_key([ScaleIntensity(0, 2)])
        False
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
    if "<" in value.__qualname__:
        name = f"{value.__module__}.{value.__qualname__}"
        raise TypeError(
            f"a cache on disk cannot tell {name} from another one; name the function, or leave cache_dir out"
        )
    return f"{value.__module__}.{value.__qualname__} {_source(value.__module__)}"


@functools.cache
def _source(module: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    if not file:
        return ""
    # A class of ours leans on the modules beside it, as the reader of all files does on that of each format.
    sources = sorted(Path(file).parent.glob("*.py")) if module.startswith(_OURS) else [Path(file)]
    return short_digest(*(source.read_bytes() for source in sources), size=8)
