# Copyright (c) The monai_essa authors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""KEY=VALUE is read as monai.bundle reads its options."""

from __future__ import annotations

import argparse
from typing import Any

import fire
import pytest

from monai_essa.cli.config_values import add_values_argument, config_values


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
