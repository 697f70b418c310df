# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A bundle is a folder or a name; of its configs the first that is there is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_essa.bundling.folder import OVERLAYS, bundle_folder, check_configs, find_bundle, find_config, overlay_names


def test_a_name_is_a_bundle_that_ships() -> None:
    assert find_bundle("essa_ssa") == bundle_folder("essa_ssa")


def test_a_folder_is_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    assert find_bundle(tmp_path) == tmp_path


def test_a_folder_without_configs_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a bundle: expected a folder with a folder 'configs'"):
        find_bundle(tmp_path)


def test_a_misspelt_name_is_answered_with_the_near_one() -> None:
    with pytest.raises(ValueError, match="did you mean essa_ssa"):
        find_bundle("esa_ssa")


def test_the_preferred_config_comes_first(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.json").touch()
    assert find_config(tmp_path, ("inference", "train")).name == "train.json"
    (tmp_path / "configs" / "inference.yaml").touch()
    assert find_config(tmp_path, ("inference", "train")).name == "inference.yaml"


def test_a_bundle_without_the_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    with pytest.raises(ValueError, match="holds no inference or train config"):
        find_config(tmp_path, ("inference", "train"))


def test_overlays_are_named_by_kind_in_order_of_the_alphabet(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    for name in ("network_vit", "network_segresnet", "method_lora", "train", "my_network_x"):
        (tmp_path / "configs" / f"{name}.yaml").touch()
    assert {kind: overlay_names(tmp_path, kind) for kind in OVERLAYS if overlay_names(tmp_path, kind)} == {
        "network": ["segresnet", "vit"],
        "method": ["lora"],
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "[1, 2]"),
        ("a.yaml", "3"),
        ("a.yaml", ""),
        ("a.json", "{'a': "),
        ("a.yaml", "a: [\n b: }"),
        ("a.txt", "a: 1"),
    ],
)
def test_a_file_that_is_no_config_is_refused_in_one_line(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="expected a config") as caught:
        check_configs([tmp_path / name])
    assert str(caught.value).isprintable() and name in str(caught.value)


def test_every_config_of_a_list_has_to_be_there(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 1", encoding="utf-8")
    check_configs(None)
    check_configs(str(tmp_path / "a.yaml"))
    for files in (f"{tmp_path / 'a.yaml'},b.yaml", ["b.yaml"], tmp_path):
        with pytest.raises(FileNotFoundError, match="no such config; paths are relative to the current folder"):
            check_configs(files)
    with pytest.raises(ValueError, match="^3: expected the path of a config"):
        check_configs([3])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("step: {_target_: monai_essa.gone.Step}", "monai_essa.gone.Step"),
        ("a: [{b: {_target_: monai_essa.engines.Gone}}]", "monai_essa.engines.Gone"),
        ("imports: [$import monai_essa.gone as gone]", "monai_essa.gone"),
        ("imports: [$from monai_essa.engines import gone]", "monai_essa.engines.gone"),
    ],
)
def test_a_config_of_another_version_is_refused(text: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"train.yaml: {name} is not in this version.*'monai-essa bundles copy'"):
        check_configs(tmp_path / "train.yaml")


def test_what_is_there_is_not_refused(tmp_path: Path) -> None:
    own = "a: {_target_: my_site.Step}\nb: {_target_: monai_essa.methods.LoRA}\nc: monai_essa.gone\n"
    (tmp_path / "train.yaml").write_text(f"imports: [$import monai_essa.data as data]\n{own}", encoding="utf-8")
    check_configs(tmp_path / "train.yaml")


@pytest.mark.parametrize("bundle", ["essa_ssa", "essa_tpp", "essa_segmentation", "essa_classification"])
def test_every_name_of_ours_in_the_bundles_is_there(bundle: str) -> None:
    check_configs(sorted((bundle_folder(bundle) / "configs").glob("*.yaml")))
