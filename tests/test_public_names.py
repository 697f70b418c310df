# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The names of the front door: all methods, nothing else by accident, and nothing imported before it is used."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

import monai_essa
from monai_essa import methods

ROOT = Path(__file__).resolve().parents[1]


def test_every_method_of_the_library_is_at_the_front_door():
    library = {name for name in methods.__all__ if dataclasses.is_dataclass(getattr(methods, name))}
    assert len(library) == 11 and library <= set(monai_essa.__all__)
    assert all(getattr(monai_essa, name) is getattr(methods, name) for name in library)


def test_every_name_can_be_imported():
    assert all(getattr(monai_essa, name) is not None for name in monai_essa.__all__)


def test_dir_lists_the_public_names_and_nothing_else():
    assert dir(monai_essa) == sorted(monai_essa.__all__)
    assert [name for name in dir(monai_essa) if name.startswith("_")] == ["__version__"]


def test_an_unknown_name_is_refused_like_that_of_any_module():
    with pytest.raises(AttributeError, match="module 'monai_essa' has no attribute 'Lora'"):
        monai_essa.Lora  # noqa: B018


def test_importing_the_package_and_listing_its_names_loads_neither_torch_nor_monai():
    script = "import sys, monai_essa; dir(monai_essa); print({'torch', 'monai', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "set()"
