# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Lean training: the same function and gradients at a part of the memory."""

from __future__ import annotations

from monai_essa.efficiency.lean import lean

__all__ = ["lean"]
