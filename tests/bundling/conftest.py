# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The volumes, the base network and the finished runs of the command line's tests."""

from __future__ import annotations

from tests.cli.conftest import files, finished_run, monai_essa, segmentation_runs, unread_bundle, volumes

__all__ = ["files", "finished_run", "monai_essa", "segmentation_runs", "unread_bundle", "volumes"]
