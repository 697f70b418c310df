# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Processes of their own that have imported torch and MONAI when they begin: the import takes eight seconds.

They are forked from a server that has imported these and done nothing else, so they share no state with the test. Where
there is no such server (Windows), each process imports anew.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
multiprocessing.set_forkserver_preload(["torch", "monai.bundle.scripts", "monai.networks.nets", "monai_essa.engines"])


def run_ranks(function: Callable[..., None], *arguments: Any, processes: int = 2) -> None:
    """Call ``function(rank, *arguments)`` in processes of their own; an error in one is raised here."""
    torch.multiprocessing.start_processes(function, arguments, nprocs=processes, start_method=_METHOD)


def start_python(
    *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, output: Path | None = None
) -> BaseProcess:
    """Start what ``python -W ignore ARGUMENTS`` starts: ``-c CODE ...``, ``-m MODULE ...`` or ``FILE ...``.

    Args:
        arguments: of the command line.
        cwd: its folder; default that of the test.
        env: variables over those of the test.
        output: a folder for the files ``out`` and ``err``; default: both are dropped.
    """
    variables = dict(os.environ) | dict(env or {})
    process = multiprocessing.get_context(_METHOD).Process(
        target=_become, args=(arguments, str(cwd or Path.cwd()), variables, output)
    )
    process.start()
    return process


def run_python(
    *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, check: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run what :func:`start_python` starts to its end, with its output as text."""
    with tempfile.TemporaryDirectory() as folder:
        process = start_python(*arguments, cwd=cwd, env=env, output=Path(folder))
        process.join()
        out, err = ((Path(folder) / name).read_text(encoding="utf-8") for name in ("out", "err"))
    code = process.exitcode
    assert code is not None
    if check:
        assert code == 0, err
    return subprocess.CompletedProcess(arguments, code, out, err)


def _become(arguments: Sequence[str], cwd: str, variables: Mapping[str, str], output: Path | None) -> None:
    for number, name in enumerate(("out", "err"), start=1):
        os.dup2(os.open(output / name if output else os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    sys.orig_argv[:] = [sys.executable, "-W", "ignore", *arguments]
    sys.warnoptions[:] = ["ignore"]
    try:
        _execute(arguments)
    except SystemExit:
        raise
    except BaseException:  # noqa: BLE001
        sys.excepthook(*sys.exc_info())  # what the process itself has set; a child of multiprocessing prints its own
        raise SystemExit(1) from None
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _execute(arguments: Sequence[str]) -> None:
    first, *rest = arguments
    if first == "-c":
        main = sys.modules["__main__"] = type(sys)("__main__")
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    elif first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")
