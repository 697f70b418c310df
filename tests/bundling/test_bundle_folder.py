# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Bundles are found beside the package or inside it, and a wrong name is answered with the right ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from monai_essa.bundling import folder as shipped

MakeModule = Callable[[Path], ModuleType]


@pytest.fixture
def module_at(monkeypatch: pytest.MonkeyPatch) -> MakeModule:
    """Makes the module believe that its package lies in a given folder."""

    def move(package: Path) -> ModuleType:
        package.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(shipped, "__file__", str(package / "bundling" / "folder.py"))
        return shipped

    return move


def add_bundle(root: Path, name: str) -> Path:
    configs = root / name / "configs"
    configs.mkdir(parents=True)
    (configs / "metadata.json").write_text("{}", encoding="utf-8")
    return root / name


def test_bundles_inside_the_package_are_found(tmp_path: Path, module_at: MakeModule) -> None:
    folder = add_bundle(tmp_path / "site" / "monai_essa" / "bundles", "essa_ssa")
    assert module_at(tmp_path / "site" / "monai_essa").bundle_folder("essa_ssa") == folder


def test_bundles_beside_the_package_are_found(tmp_path: Path, module_at: MakeModule) -> None:
    folder = add_bundle(tmp_path / "checkout" / "bundles", "essa_ssa")
    assert module_at(tmp_path / "checkout" / "monai_essa").bundle_folder("essa_ssa") == folder


def test_bundles_inside_the_package_win_over_a_stranger_beside_it(tmp_path: Path, module_at: MakeModule) -> None:
    add_bundle(tmp_path / "bundles", "another_project")
    add_bundle(tmp_path / "monai_essa" / "bundles", "essa_ssa")
    assert module_at(tmp_path / "monai_essa").list_bundles() == ("essa_ssa",)


def test_bundles_are_listed_in_alphabetical_order(tmp_path: Path, module_at: MakeModule) -> None:
    for name in ("essa_tpp", "essa_ssa", "essa_segmentation"):
        add_bundle(tmp_path / "bundles", name)
    assert module_at(tmp_path / "monai_essa").list_bundles() == ("essa_segmentation", "essa_ssa", "essa_tpp")


def test_a_folder_without_metadata_is_no_bundle(tmp_path: Path, module_at: MakeModule) -> None:
    add_bundle(tmp_path / "bundles", "essa_ssa")
    (tmp_path / "bundles" / "__pycache__").mkdir()
    assert module_at(tmp_path / "monai_essa").list_bundles() == ("essa_ssa",)


def test_a_misspelt_name_is_answered_with_the_near_one(tmp_path: Path, module_at: MakeModule) -> None:
    for name in ("essa_ssa", "essa_segmentation"):
        add_bundle(tmp_path / "bundles", name)
    with pytest.raises(ValueError, match=r"did you mean essa_ssa\? available bundles: essa_segmentation, essa_ssa$"):
        module_at(tmp_path / "monai_essa").bundle_folder("esssa_ssa")


def test_a_name_like_no_bundle_is_answered_with_all(tmp_path: Path, module_at: MakeModule) -> None:
    add_bundle(tmp_path / "bundles", "essa_ssa")
    with pytest.raises(ValueError, match=r"'spleen'; available bundles: essa_ssa$"):
        module_at(tmp_path / "monai_essa").bundle_folder("spleen")


@pytest.mark.parametrize("name", ["..", "../bundles/essa_ssa", "essa_ssa/configs", ""])
def test_a_path_is_no_name(name: str, tmp_path: Path, module_at: MakeModule) -> None:
    add_bundle(tmp_path / "bundles", "essa_ssa")
    with pytest.raises(ValueError, match="no bundle is named"):
        module_at(tmp_path / "monai_essa").bundle_folder(name)


def test_an_installation_without_bundles_says_so(tmp_path: Path, module_at: MakeModule) -> None:
    with pytest.raises(ValueError, match="available bundles: none, reinstall monai_essa"):
        module_at(tmp_path / "monai_essa").bundle_folder("essa_ssa")


def test_this_installation_lists_every_bundle_of_the_checkout() -> None:
    checkout = Path(__file__).resolve().parents[2] / "bundles"
    names = tuple(sorted(path.parent.parent.name for path in checkout.glob("*/configs/metadata.json")))
    assert shipped.list_bundles() == names
    for name in names:
        metadata = (shipped.bundle_folder(name) / "configs" / "metadata.json").read_text(encoding="utf-8")
        assert json.loads(metadata)["version"]
