# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What tests share: a fixed seed, one thread, real data where there is some, GPU tests where there is a GPU."""

from __future__ import annotations

import locale
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from monai.utils import set_determinism

# The test processes share the cores already; the commands that tests start inherit the variable.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name != "test_contract.py")  # the longest file; last, it would run alone
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Name a failure at once: a run that is cut off prints no summary."""
    if report.failed and not os.environ.get("PYTEST_XDIST_WORKER"):
        sys.__stderr__.write(f"\n{report.outcome}: {report.nodeid} ({report.when}, {report.duration:.0f} s)\n")


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Seeds python, numpy, torch and MONAI's transforms before each test, so that no test depends on the order."""
    set_determinism(seed=0)


@pytest.fixture(autouse=True)
def own_excepthook(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle sets sys.excepthook; the hook of this process comes back after the test."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Starts and ends each test with the root logger of a fresh process.

    A bundle that runs in this process sets it by its logging.conf: to INFO, with a handler that writes to standard
    output. A session fixture may do so before the first test that asks for it, hence the start.
    """
    _restore_root_logger()
    yield
    _restore_root_logger()


def _restore_root_logger() -> None:
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    for handler in root.handlers[:]:
        if not type(handler).__module__.startswith("_pytest."):
            root.removeHandler(handler)


@pytest.fixture(autouse=True)
def own_locale() -> Iterator[None]:
    """Undoes what GDCM's writer of DICOM may leave behind: the locale "C", in which output is ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real images that MONAI_ESSA_DATA names; without it the test is skipped."""
    folder = os.environ.get("MONAI_ESSA_DATA")
    if not folder:
        _without_data("MONAI_ESSA_DATA is not set: it names the folder of real images")
    if not Path(folder).is_dir():
        pytest.fail(f"MONAI_ESSA_DATA names no folder: {folder}", pytrace=False)
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def hippocampus_tiny(data_dir: Path) -> Path:
    """16 cases of MSD Task04 (T1 MRI crops at 1 mm, two classes) with their dataset.json."""
    folder = data_dir / "hippocampus-tiny"
    if not folder.is_dir():
        _without_data(f"MONAI_ESSA_DATA lacks hippocampus-tiny: {folder}")
    return folder


def _without_data(reason: str) -> NoReturn:
    if os.environ.get("MONAI_ESSA_REQUIRE_DATA") == "1":
        pytest.fail(f"{reason} (MONAI_ESSA_REQUIRE_DATA=1)", pytrace=False)
    pytest.skip(reason)
