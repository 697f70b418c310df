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

"""Of a chain of exceptions, the line that helps."""

from __future__ import annotations

import pytest
import yaml
from monai.bundle import ConfigParser
from monai.data import DataLoader
from monai.transforms import Compose, Lambda

from monai_essa.cli.one_line import one_line


def refuse(value: object) -> None:
    raise ValueError(f"{value}: expected another; give one\nand a second line")


def caught(call) -> BaseException:
    with pytest.raises(Exception) as raised:
        call()
    return raised.value


def test_the_first_line_of_a_message_is_given() -> None:
    assert one_line(ValueError("a.nii: no such file\nlong story")) == "a.nii: no such file"


def test_an_error_without_a_message_is_its_name() -> None:
    assert one_line(RuntimeError()) == "RuntimeError"


def test_a_bare_key_says_that_it_is_a_missing_key() -> None:
    assert one_line(KeyError("image")) == "KeyError: image"
    assert one_line(KeyError("id='x' is not in the config")) == "id='x' is not in the config"


def test_the_wrappers_of_the_config_parser_are_taken_off() -> None:
    parser = ConfigParser({"a": "$refuse('a')", "b": {"_target_": "builtins.dict", "c": "@a"}}, globals={})
    parser.globals["refuse"] = refuse
    assert one_line(caught(lambda: parser.get_parsed_content("b"))) == "a: expected another; give one"


def test_the_wrappers_of_transforms_are_taken_off() -> None:
    assert one_line(caught(lambda: Compose([Lambda(refuse)])(1))) == "1: expected another; give one"


def test_a_message_of_ours_is_kept_though_it_has_a_cause() -> None:
    def reread() -> None:
        try:
            refuse("inner")
        except ValueError as error:
            raise ValueError("a.nii: damaged; copy it again") from error

    assert one_line(caught(reread)) == "a.nii: damaged; copy it again"


def test_the_error_of_a_loader_process_is_found_in_its_text() -> None:
    loader = DataLoader([Compose([Lambda(refuse)])], num_workers=1, collate_fn=lambda items: items[0](5))
    assert one_line(caught(lambda: list(loader))) == "5: expected another; give one"


def test_a_yaml_error_has_its_place_on_the_same_line() -> None:
    line = one_line(caught(lambda: yaml.safe_load("a: [1")))
    assert "line 1, column 4" in line and "\n" not in line
