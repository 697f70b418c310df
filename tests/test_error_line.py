# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""One line that says why, at the end."""

from __future__ import annotations

import subprocess

import pytest
import yaml
from monai.bundle import ConfigParser
from monai.bundle.config_item import ConfigExpression
from monai.data import DataLoader
from monai.networks.nets import ViT
from monai.transforms import Compose, Lambda

from monai_essa.error_line import one_line, root_cause
from tests.forked import run_python

FAIL = """
import torch
from monai.bundle.config_item import ConfigExpression
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, Lambda
def refuse(item):
    try:
        1 / item
    except ZeroDivisionError as error:
        raise ValueError("columns must be between 1 and 24") from error
loader = DataLoader(Dataset([0], Compose([Lambda(refuse)])), num_workers=0)
ConfigExpression("$list(loader)", globals={"loader": loader}).evaluate()
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    start = "from monai_essa.error_line import show_cause_last\nshow_cause_last()\nshow_cause_last()\n"
    return run_python("-c", start + code)


def test_cause_is_the_last_line_and_the_traceback_stays():
    result = run(FAIL)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "error: columns must be between 1 and 24"
    assert result.stderr.count("RuntimeError: Failed to evaluate") == 1


def raised(call) -> BaseException:
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


def refuse(_: object) -> None:
    try:
        raise OSError("Error -3 while decompressing")
    except OSError as error:
        raise ValueError("scan.nii.gz: damaged; copy it again") from error


def test_errors_of_monai_lead_to_the_error_of_the_component():
    error = raised(ConfigExpression("$f(0)", globals={"f": Compose([Lambda(refuse)])}).evaluate)
    assert str(error).startswith("Failed to evaluate")
    assert str(root_cause(error)) == "scan.nii.gz: damaged; copy it again"


def test_an_error_of_monai_without_a_cause_is_the_cause():
    error = raised(lambda: ViT(1, 16, 16, hidden_size=47, num_heads=4))
    assert root_cause(error) is error


def test_an_error_of_another_package_is_the_cause():
    error = raised(lambda: refuse(None))
    assert root_cause(error) is error


def refuse_value(value: object) -> None:
    raise ValueError(f"{value}: expected another; give one\nand a second line")


def test_the_first_line_of_a_message_is_given() -> None:
    assert one_line(ValueError("a.nii: no such file\nlong story")) == "a.nii: no such file"


def test_what_does_not_print_is_shown_by_its_escape() -> None:
    assert one_line(ValueError("a\x1b[2J\u202eb.nii: no such file")) == "a\\x1b[2J\\u202eb.nii: no such file"


def test_an_error_without_a_message_is_its_name() -> None:
    assert one_line(RuntimeError()) == "RuntimeError"


def test_a_bare_key_says_that_it_is_a_missing_key() -> None:
    assert one_line(KeyError("image")) == "KeyError: image"
    assert one_line(KeyError("id='x' is not in the config")) == "id='x' is not in the config"


def test_the_wrappers_of_the_config_parser_are_taken_off() -> None:
    parser = ConfigParser({"a": "$refuse_value('a')", "b": {"_target_": "builtins.dict", "c": "@a"}}, globals={})
    parser.globals["refuse_value"] = refuse_value
    assert one_line(raised(lambda: parser.get_parsed_content("b"))) == "a: expected another; give one"


def test_the_wrappers_of_transforms_are_taken_off() -> None:
    assert one_line(raised(lambda: Compose([Lambda(refuse_value)])(1))) == "1: expected another; give one"


def test_a_message_of_ours_is_kept_though_it_has_a_cause() -> None:
    def reread() -> None:
        try:
            refuse_value("inner")
        except ValueError as error:
            raise ValueError("a.nii: damaged; copy it again") from error

    assert one_line(raised(reread)) == "a.nii: damaged; copy it again"


def test_the_error_of_a_loader_process_is_found_in_its_text() -> None:
    loader = DataLoader([Compose([Lambda(refuse_value)])], num_workers=1, collate_fn=lambda items: items[0](5))
    assert one_line(raised(lambda: list(loader))) == "5: expected another; give one"


def test_a_yaml_error_has_its_place_on_the_same_line() -> None:
    line = one_line(raised(lambda: yaml.safe_load("a: [1")))
    assert "line 1, column 4" in line and "\n" not in line


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"step": {"_target_": "monai_essa.gone.Step"}}, "monai_essa.gone.Step"),
        ({"step": {"_target_": "monai_essa.engines.Gone"}}, "monai_essa.engines.Gone"),
        ({"imports": ["$import monai_essa.engines as e"], "step": "$e.gone()"}, "monai_essa.engines.gone"),
    ],
)
def test_a_config_of_another_version_is_named_with_the_way_out(config: dict[str, object], name: str) -> None:
    with pytest.raises((RuntimeError, ModuleNotFoundError)) as caught:
        ConfigParser(config).get_parsed_content("step")
    line = one_line(caught.value)
    assert line.startswith(f"{name} is not in this version of monai_essa") and "'monai-essa bundles copy'" in line
