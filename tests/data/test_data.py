# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The public names of monai_essa.data come at their first use; whoever asks for one sees no difference."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from monai_essa import data


def names_for_type_checkers() -> Iterator[tuple[str, str]]:
    """Name and module of each import that only a type checker follows."""
    tree = ast.parse(Path(str(data.__file__)).read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    for node in guarded.body:
        assert isinstance(node, ast.ImportFrom)
        yield from ((alias.name, str(node.module)) for alias in node.names)


def test_type_checkers_see_the_names_that_are_public() -> None:
    assert sorted(name for name, _ in names_for_type_checkers()) == sorted(data.__all__)


@pytest.mark.parametrize(("name", "module"), sorted(names_for_type_checkers()))
def test_a_public_name_is_what_its_module_defines(name: str, module: str) -> None:
    assert getattr(data, name) is getattr(import_module(module), name)
    assert name in dir(data)


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'monai_essa.data' has no attribute 'load_dataset'"):
        getattr(data, "load_dataset")  # noqa: B009
    with pytest.raises(ImportError, match="cannot import name 'load_dataset'"):
        from monai_essa.data import load_dataset  # noqa: F401


def test_a_config_finds_a_public_name_by_path_and_by_import() -> None:
    # For the short name MONAI looks at every member of each loaded module whose name begins with "monai".
    load = {"_target_": "LoadImage", "reader": "monai_essa.data.VolumeReader"}
    patient = "$data.patient_of('sub-01_T1w.nii.gz')"
    parser = ConfigParser({"imports": ["$import monai_essa.data as data"], "load": load, "patient": patient})
    assert type(parser.get_parsed_content("load").readers[-1]) is data.VolumeReader
    assert parser.get_parsed_content("patient") == data.patient_of("sub-01_T1w.nii.gz")


def test_the_names_of_datalists_come_without_torch() -> None:
    script = """
import sys
from monai_essa.data import check_datalist, load_datalist, make_datalist, read_volume
print({"monai", "torch"} & sys.modules.keys(), load_datalist.__module__)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == "set() monai_essa.data.lists.read\n"
