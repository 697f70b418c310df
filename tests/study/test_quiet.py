# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The demo's silence ends with the demo."""

from __future__ import annotations

import logging
import sys
import warnings

import pytest

from monai_essa.study.stages import quiet_libraries

LIBRARIES = ("monai", "monai_essa", "ignite")


def test_information_is_dropped_and_errors_are_not(caplog: pytest.LogCaptureFixture) -> None:
    with quiet_libraries():
        for name in LIBRARIES:
            logging.getLogger(f"{name}.somewhere").info("information")
            logging.getLogger(f"{name}.somewhere").error("an error")

    assert caplog.messages == ["an error"] * len(LIBRARIES)


def test_warnings_are_not_shown(recwarn: pytest.WarningsRecorder) -> None:
    with quiet_libraries():
        warnings.warn("of no use here", stacklevel=1)

    assert not recwarn.list


def test_levels_and_hook_are_put_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    logging.getLogger("ignite").setLevel(logging.DEBUG)
    with pytest.raises(RuntimeError), quiet_libraries():
        sys.excepthook = print  # type: ignore[assignment]
        raise RuntimeError

    assert sys.excepthook is sys.__excepthook__
    assert logging.getLogger("ignite").level == logging.DEBUG
    logging.getLogger("ignite").setLevel(logging.NOTSET)
