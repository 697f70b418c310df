# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
import torch

from monai_essa.engines.steps import autocast_to


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_a_linear_layer_computes_in_the_format_that_was_asked_for(precision: str, dtype: torch.dtype) -> None:
    with autocast_to(precision, torch.device("cpu")):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype


@pytest.mark.filterwarnings("error")
def test_no_autocast_gives_no_warning() -> None:
    autocast_to("fp32", torch.device("cpu"))


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision must be one of fp32, bf16, fp16, got 'float16'"):
        autocast_to("float16", torch.device("cpu"))
