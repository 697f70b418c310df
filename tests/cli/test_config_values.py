# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""KEY=VALUE is read as monai.bundle reads its options."""

from __future__ import annotations

import argparse
from typing import Any

import fire
import pytest

from monai_essa.cli.arguments import add_values_argument, config_values


@pytest.mark.parametrize(
    "text", ["3", "1e-3", "[64, 64, 64]", "{background: 0, spleen: 1}", "None", "True", "runs/a.pt", "source#training"]
)
def test_a_value_has_the_type_that_monai_bundle_would_give_it(text: str) -> None:
    taken: dict[str, Any] = {}
    fire.Fire(lambda **options: taken.update(options), command=["--key", text])
    expected = text if "#" in text else taken["key"]
    assert config_values([f"key={text}"]) == {"key": expected}


def test_a_value_may_hold_an_equals_sign() -> None:
    assert config_values(["func=$dict(a=1)"]) == {"func": "$dict(a=1)"}


@pytest.mark.parametrize("text", ["img_size", "=3", ""])
def test_what_is_no_pair_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected KEY=VALUE"):
        config_values([text])


def test_several_pairs_follow_one_option() -> None:
    parser = argparse.ArgumentParser()
    add_values_argument(parser, "the config")
    assert parser.parse_args(["--args", "a=1", "b=2"]).args == ["a=1", "b=2"]
    assert parser.parse_args([]).args == []
