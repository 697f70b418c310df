# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""How long the fuzz runs, and what makes an input fail whatever it is for."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from monai_essa.error_line import one_line
from tests.fuzz.hostile_values import MARKER

# A test writes files and builds networks, which hypothesis takes for slow, in a scratch folder that examples share.
_EXPECTED = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large)
_PHASES = (Phase.explicit, Phase.generate, Phase.shrink)  # without that which traces every line to explain a failure
_ALWAYS: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "phases": _PHASES,
    "print_blob": True,
    "suppress_health_check": _EXPECTED,
}

settings.register_profile("ci", derandomize=True, **_ALWAYS)
settings.register_profile("long", **_ALWAYS)
_LONG = os.environ.get("MONAI_ESSA_FUZZ")
_PROFILE = settings.get_profile("long" if _LONG else "ci")


def inputs(number: int) -> Callable[[Any], Any]:
    """Decorates a test: the number of inputs in continuous integration; MONAI_ESSA_FUZZ sets another for each test."""
    return settings(_PROFILE, max_examples=int(_LONG) if _LONG else number)


@contextmanager
def guarded(seconds: int = 60) -> Iterator[None]:
    """Fails if the block takes longer (a hundred times what it needs), or runs what an input planted."""
    alarms = hasattr(signal, "SIGALRM")

    def fail(*_: object) -> None:
        pytest.fail(f"still running after {seconds} s")  # no Exception, so that no handler of the library takes it

    if alarms:
        before = signal.signal(signal.SIGALRM, fail)
        signal.alarm(seconds)
    try:
        yield
    finally:
        if alarms:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
    ran = MARKER.exists()
    MARKER.unlink(missing_ok=True)
    assert not ran, "code of the input was run"


def assert_one_line(error: BaseException, *names: str) -> None:
    """The message is one line, not endless, which names one of the files, and prints as it is on a command line."""
    line = str(error)
    assert len(line.splitlines()) == 1 and len(line) < 20_000, repr(line)
    assert one_line(error).isprintable(), repr(line)
    assert not names or any(name in line for name in names), line
