# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Encoders from elsewhere that ``make test-bases`` installs; without them these tests are skipped."""

from __future__ import annotations

import pytest
import torch

from monai_essa.torchvision_operators import declare_operators


def pytest_configure() -> None:
    try:
        declare_operators()  # before timm or MONAI imports torchvision
    except ModuleNotFoundError:
        pass


@pytest.fixture
def xray(data_dir) -> torch.Tensor:
    """A chest X-ray of PneumoniaMNIST (CC BY 4.0) as (1, 3, 28, 28), 0 to 1."""
    import numpy as np

    images = np.load(data_dir / "pneumoniamnist" / "pneumoniamnist.npz")["train_images"]
    return torch.tensor(images[:1, None] / 255.0, dtype=torch.float32).repeat(1, 3, 1, 1)
