# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Text where True or False is expected is refused, not taken for true."""

from __future__ import annotations

from typing import Any

import pytest

from monai_essa.methods import VPT, BitFit
from monai_essa.outside import switch


@pytest.mark.parametrize("value", [True, False])
def test_true_and_false_pass(value: bool) -> None:
    assert switch("weight_foreground", value) is value


@pytest.mark.parametrize("value", ["false", "true", "", 0, 1, None])
def test_anything_else_is_refused_by_its_name(value: Any) -> None:
    with pytest.raises(TypeError, match=f"^weight_foreground: expected True or False, got {value!r}; write it with a"):
        switch("weight_foreground", value)


def test_a_method_refuses_text() -> None:
    with pytest.raises(TypeError, match="^norms: expected True or False, got 'false'"):
        BitFit(norms="false")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="^deep: expected True or False, got 'false'"):
        VPT(deep="false")  # type: ignore[arg-type]
