# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Say in one line why something failed, however many errors MONAI has wrapped around the cause."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import yaml

from monai_essa.outside import printable

__all__ = ["asks_for_room", "moved_line", "one_line", "root_cause", "show_cause_last", "unwritten"]

_IN_WORKER = re.compile(r"^Caught \w+ in DataLoader worker")
# How MONAI, and Python, say that a config names what this version of the library does not have.
_MOVED = re.compile(
    r"Cannot locate class or function path: '(?P<component>monai_essa[\w.]*)'"
    r"|(?:No module named|module) '(?P<module>monai_essa[\w.]*)'(?: has no attribute '(?P<name>\w+)')?"
)
# A full disk, a quota, a limit of the size of a file, a disk that is mounted to be read.
_UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_TORN = re.compile(r"inline_container.*(unexpected pos|PytorchStreamWriter)")  # what torch.save says of all of these
_RAISED = re.compile(r"^(?:[\w.]+\.)?\w+(?:Error|Exception): (.+)$", re.MULTILINE)


def root_cause(error: BaseException) -> BaseException:
    """Return the error that says why, from within those that MONAI wraps around it.

    ``monai.bundle`` and ``monai.transforms`` wrap each error of a component in errors of their own, several times. An
    error that is raised elsewhere is the cause, even if it has a cause itself: it says what to do about that one.

    Example:
        >>> from monai.bundle.config_item import ConfigExpression
        >>> try:
        ...     ConfigExpression("$open('vit.pt')").evaluate()
        ... except RuntimeError as error:
        ...     root_cause(error)
        FileNotFoundError(2, 'No such file or directory')
    """
    while _is_raised_by_monai(error):
        earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if earlier is None:
            return error
        error = earlier
    return error


def one_line(error: BaseException) -> str:
    """Return the line that tells the user what was expected, what came and what to do.

    Args:
        error: the error that was caught.

    Returns:
        The first line of its root cause's message, with escapes for characters that do not print, such as terminal
        codes; the class name if there is no message. What torch says of a full disk, the position of a byte, is
        replaced by the reason.

    Example:
        >>> one_line(KeyError("no such section"))
        'no such section'
    """
    cause = root_cause(error)
    full = unwritten(error) if _TORN.search(str(cause)) else None
    if full is not None:
        return f"{full.strerror}; make room on the disk and give the command again"
    # str() of a KeyError is the repr() of its key.
    message = str(cause.args[0]) if isinstance(cause, KeyError) and cause.args else str(cause)
    if _IN_WORKER.match(message):
        raised = [line for line in _RAISED.findall(message) if not line.startswith("applying transform")]
        message = raised[-1] if raised else message
    # A YAML error has its place in the file on lines of its own.
    lines = [" ".join(message.split())] if isinstance(cause, yaml.YAMLError) else message.strip().splitlines()
    line = printable(lines[0]) if lines and lines[0] else type(cause).__name__
    if moved := _MOVED.search(line):
        return moved_line(".".join(filter(None, moved.groups())))
    # The bare key of a KeyError says too little without its name.
    return f"KeyError: {line}" if isinstance(cause, KeyError) and " " not in line else line


def unwritten(error: BaseException) -> OSError | None:
    """Return the error of the system if the reason of an error is that the disk takes no more; None if it is another.

    Args:
        error: as it was caught, also one whose text alone tells, as those of torch.save and safetensors do.

    Example:
        >>> unwritten(RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"))
        OSError(28, 'No space left on device')
        >>> unwritten(ValueError("loss is NaN"))
    """
    numbers = {os.strerror(number): number for number in _UNWRITTEN}
    for each in _behind(error):
        if isinstance(each, OSError) and each.errno in _UNWRITTEN:
            return OSError(each.errno, each.strerror)
        if said := next((reason for reason in numbers if reason in str(each)), None):
            return OSError(numbers[said], said)
    torn = any(_TORN.search(str(each)) for each in _behind(error))
    return OSError(errno.ENOSPC, "a file could not be written to its end") if torn else None


@contextmanager
def asks_for_room(folder: Path) -> Iterator[None]:
    """Say of a disk that takes no more what to do about it, where the same command goes on afterwards.

    Args:
        folder: that is written to.

    Raises:
        RuntimeError: in place of an error that :func:`unwritten` knows.

    Example:
        >>> with asks_for_room(Path()):
        ...     pass
    """
    try:
        yield
    except OSError as error:
        reason = unwritten(error)
        if reason is None:
            raise
        free = shutil.disk_usage(folder).free
        raise RuntimeError(
            f"{folder}: {reason.strerror}, {free / 1e6:.0f} MB are free; make room and give the same command: it goes "
            "on where this one stopped"
        ) from error


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def moved_line(name: str) -> str:
    """Return the line for a config that names what this version of monai_essa does not have.

    Example:
        >>> moved_line("monai_essa.gone.Step").partition(";")[0]
        'monai_essa.gone.Step is not in this version of monai_essa: the config was copied from another one'
    """
    return (
        f"{name} is not in this version of monai_essa: the config was copied from another one; take a fresh copy by "
        "'monai-essa bundles copy' and set your values in it"
    )


def show_cause_last() -> None:
    """Print the cause of an uncaught error once more from now on, as the last line after the traceback.

    The bundles call it first, since some hundred lines of MONAI's traceback follow the line about a wrong key. It sets
    ``sys.excepthook`` of this process.
    """
    sys.excepthook = _hook


def _is_raised_by_monai(error: BaseException) -> bool:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__", "").startswith("monai.")


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.__excepthook__(kind, error, trace)
    if root_cause(error) is not error:
        sys.stderr.write(f"\nerror: {one_line(error)}\n")
