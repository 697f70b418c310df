# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A MONAI Label app that trains adapters: needs the extra ``monai_essa[label]``, in an environment of its own."""

from __future__ import annotations

from monai_essa.torchvision_operators import declare_operators

declare_operators()

from monai_essa.label.app import EssaLabelApp  # noqa: E402 - MONAI Label imports torchvision

__all__ = ["EssaLabelApp"]
