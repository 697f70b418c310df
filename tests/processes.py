# Copyright (c) The monai_essa authors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Processes that tests start: forks where the system has them, for a fresh Python takes long to import MONAI."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

__all__ = ["begin", "two_in_step"]

_START = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"


def two_in_step(work: Callable[[int, str], None], folder: Path) -> None:
    """Run a function of the rank and the folder in two processes, to the end of both; their errors are raised."""
    torch.multiprocessing.start_processes(work, (str(folder),), nprocs=2, start_method=_START)


def begin(work: Callable[[], object]) -> BaseProcess:
    """Begin some work in a process of its own."""
    process = multiprocessing.get_context(_START).Process(target=work)
    process.start()
    return process
