# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The base, adapter and merged files of the command line's tests."""

from __future__ import annotations

from tests.cli.conftest import files

__all__ = ["files"]
