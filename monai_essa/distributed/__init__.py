# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""One run in several processes: how they find each other, and what a batch of all of them is."""

from __future__ import annotations

from monai_essa.distributed.processes import join_processes, leave_processes

__all__ = ["join_processes", "leave_processes"]
