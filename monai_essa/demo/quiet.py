# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Silence around the bars of the demo: what the libraries log and warn about belongs to a run, not to a tour."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_libraries"]

# The workflows of monai.bundle warn that no logging.conf is applied, which is the point here.
_LEVELS = {
    "monai": logging.WARNING,
    "monai.bundle.workflows": logging.ERROR,
    "monai.data.image_writer": logging.WARNING,  # it has a level and a handler of its own
    "monai_essa": logging.WARNING,
    "ignite": logging.WARNING,
}


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Within this context the libraries log warnings and errors only; Python's warnings are not shown.

    Afterwards the levels, the warnings and ``sys.excepthook``, which the bundles set, are as they were.

    Example:
        >>> with quiet_libraries():
        ...     logging.getLogger("ignite").getEffectiveLevel() == logging.WARNING
        True
    """
    before = {name: logging.getLogger(name).level for name in _LEVELS}
    hook = sys.excepthook
    try:
        for name, level in _LEVELS.items():
            logging.getLogger(name).setLevel(level)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.excepthook = hook
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
