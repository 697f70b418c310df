# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The processes of a run: they join, agree on what they are, wait for each other, and leave.

All functions but :func:`join_processes` do nothing special in a run of one process, so that the same code serves both.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from hashlib import sha256
from itertools import count
from typing import Any

import ignite.distributed as idist
import monai
import torch
import torch.distributed as dist

from monai_essa import __version__
from monai_essa.devices import own_gpu
from monai_essa.error_line import show_cause_last

__all__ = [
    "any_process",
    "check_alike",
    "gathered_cases",
    "in_several_processes",
    "is_about_lost_process",
    "join_processes",
    "leave_processes",
    "names_lost_process",
    "process_count",
    "process_rank",
    "started_again",
    "wait_for_all",
]

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_DIGEST = 32  # bytes of a sha256
_joins = count()  # of this process, for each run that it has a part in
_LOST = (
    "has lost another process",
    "Connection closed",
    "Connection reset",
    "Timed out",
    "timed out",
    "timeout",
    "Broken pipe",
    "Read error",
)


def join_processes(timeout: int = 600) -> torch.device:
    """Join the processes that ``torchrun`` has started, by NCCL on GPUs and by gloo on CPUs.

    An error of this process ends with its cause in one line. All processes but the first stay silent below a warning.

    Args:
        timeout: seconds that a process waits for the others, here and later; then it ends with an error.

    Returns:
        The device of this process: the GPU with its number on this machine, or the CPU where there is none. A second
        call returns it again.

    Raises:
        RuntimeError: if torchrun has not started this process, there is no GPU left for it, the others do not answer,
            or they run other versions of the software.
    """
    show_cause_last()
    lacking = [name for name in _VARIABLES if name not in os.environ]
    if lacking:
        raise RuntimeError(
            f"expected the variables of torchrun, {', '.join(lacking)} not set: start the processes by "
            "'torchrun --nproc_per_node=N -m monai.bundle run ...', or leave multi_gpu_train.yaml out"
        )
    device = own_gpu(int(os.environ["LOCAL_RANK"]))
    if not in_several_processes():
        _join(device, timeout)
    return device


def leave_processes() -> None:
    """Wait until every process is done, then end the connection; called at the end of a run."""
    if in_several_processes():
        wait_for_all()
        dist.destroy_process_group()


def in_several_processes() -> bool:
    """Tell whether this process has joined others."""
    return dist.is_available() and dist.is_initialized()


def process_rank() -> int:
    """Return the number of this process among those of the run, 0 for the first, which alone writes files."""
    return dist.get_rank() if in_several_processes() else 0


def process_count() -> int:
    """Return the number of processes of the run."""
    return dist.get_world_size() if in_several_processes() else 1


def started_again() -> bool:
    """Tell whether torchrun has started this process, or SLURM its job, again after it was lost or stopped.

    Example:
        >>> started_again()
        False
    """
    counts = (os.environ.get(name, "") for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
    return any(count not in ("", "0") for count in counts)


def wait_for_all() -> None:
    """Wait until every process has come here: what the first one has written until then, the others can read."""
    any_process(False)


def any_process(asked: bool) -> bool:
    """Tell whether something holds in one process at least; all processes must ask.

    Args:
        asked: whether it holds here.

    Example:
        >>> any_process(False)
        False
    """
    if not in_several_processes():
        return asked
    flag = torch.tensor(float(asked))
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


def check_alike(**facts: str) -> None:
    """Compare facts of this process with those of the first one; all processes must compare.

    Args:
        facts: a text of any length for each name; a name is what the error calls it, with spaces for ``_``.

    Raises:
        RuntimeError: in every process, if a fact differs in one: which fact, and in which processes.

    Example:
        >>> check_alike(base="0af3")
    """
    if not in_several_processes():
        return
    own = torch.frombuffer(
        bytearray(b"".join(sha256(text.encode()).digest() for text in facts.values())), dtype=torch.uint8
    )
    others = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(others, own)
    table = torch.stack(others).view(len(others), len(facts), _DIGEST)
    for place, name in enumerate(facts):
        differ = [rank for rank, row in enumerate(table) if not torch.equal(row[place], table[0, place])]
        if differ:
            raise RuntimeError(
                f"expected the same {name.replace('_', ' ')} in all processes, process "
                f"{', '.join(map(str, differ))} has another than process 0 (here: {facts[name][:80]}): start all of "
                "them with the same files, values and versions"
            )


def gathered_cases(own: list[Any]) -> list[Any]:
    """Return the cases of all processes in the order of the data set, of which each process has every W-th.

    Args:
        own: of this process, in the order of the data set.

    Example:
        >>> gathered_cases(["a", "b"])
        ['a', 'b']
    """
    if not in_several_processes():
        return own
    parts: list[list[Any]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, own)
    return [part[step] for step in range(max(map(len, parts))) for part in parts if step < len(part)]


def is_about_lost_process(said: str) -> bool:
    """Tell whether an error is about a connection that broke or timed out, whose cause another process knows.

    Example:
        >>> is_about_lost_process("Connection closed by peer")
        True
    """
    return any(part in said for part in _LOST)


@contextmanager
def names_lost_process() -> Iterator[None]:
    """Turn the error of a connection that broke or timed out into a line that says what to do.

    Raises:
        RuntimeError: in its place.
    """
    try:
        yield
    except RuntimeError as error:
        if not in_several_processes() or not is_about_lost_process(str(error)):
            raise
        raise RuntimeError(
            f"process {process_rank()} has lost another process of the run, whose own error says why: torchrun with "
            "--max_restarts, or the same command, goes on from the last checkpoint"
        ) from error


def _join(device: torch.device, timeout: int) -> None:
    # Flags and cases go over the CPU in any run, gradients over the device.
    backend = "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:nccl"
    place = tuple(os.environ[name] for name in _VARIABLES)
    try:
        store, rank, world = _rendezvous(place, timedelta(seconds=timeout))
        store = dist.PrefixStore(f"{_start()}_{next(_joins)}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timedelta(seconds=timeout))
    except (RuntimeError, ValueError, OSError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise RuntimeError(
            f"process {os.environ['RANK']} cannot join the others at {address} within {timeout} s ({reason}): check "
            "that process 0 runs, and that the port is free and open, or give torchrun another --master_port"
        ) from error
    idist.get_rank()  # ignite counts processes by a collective of its own at its first use: here, where all of them are
    if dist.get_rank() > 0:
        logging.disable(logging.INFO)
    check_alike(
        versions=f"monai_essa {__version__}, MONAI {monai.__version__}, torch {torch.__version__}, "
        f"Python {'.'.join(platform.python_version_tuple()[:2])}"
    )


@cache
def _rendezvous(place: tuple[str, ...], timeout: timedelta) -> tuple[dist.Store, int, int]:
    """Return the store in which the processes find each other, with the rank of this one and their number.

    The store stays until this process ends: where a process runs one bundle after another, a fast one would find the
    store of the last run at the moment at which the first process closes it, and both would wait for each other.
    """
    return next(dist.rendezvous("env://", timeout=timeout))


def _start() -> str:
    """Return the name of this start of the processes, under which they find each other.

    torch keeps one store for all starts, in which a fast process finds the address that a slow one had before. On
    several machines the counts of starts differ: there ``TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1`` makes a store a start.
    """
    alone = os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
    return f"start_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0') if alone else '0'}"
