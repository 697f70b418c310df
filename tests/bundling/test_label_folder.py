# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

import json
from pathlib import Path

import pytest

from monai_essa.bundling.folder import make_label_folder


def test_adapters_come_along_but_no_run_and_no_evaluation(unread_bundle: Path, tmp_path: Path) -> None:
    for name in ("adapters/site", "eval"):
        (unread_bundle / name).mkdir(parents=True)
    (unread_bundle / "adapters" / "site" / "001.safetensors").write_text("tensors", encoding="utf-8")
    copied = make_label_folder(tmp_path / "app", [unread_bundle]) / "model" / "spleen"
    assert (copied / "adapters" / "site" / "001.safetensors").read_text() == "tensors"
    assert not [name for name in ("runs", "eval") if (copied / name).exists()]


def test_a_second_bundle_that_is_refused_leaves_nothing(unread_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no configs/metadata.json"):
        make_label_folder(tmp_path / "app", [unread_bundle, tmp_path / "missing"])
    assert [path.name for path in tmp_path.iterdir()] == ["spleen"]


def test_a_bundle_without_weights_is_refused(unread_bundle: Path, tmp_path: Path) -> None:
    (unread_bundle / "models" / "model.pt").unlink()
    with pytest.raises(FileNotFoundError, match="has no models/model.pt; expected a bundle with weights"):
        make_label_folder(tmp_path / "app", [unread_bundle])
    assert not (tmp_path / "app").exists()


def test_a_bundle_that_monai_label_would_take_for_another_task_is_refused(unread_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes such a name for another task"):
        make_label_folder(tmp_path / "app", [unread_bundle.rename(tmp_path / "lesion_detection")])


@pytest.mark.parametrize("name", ["$spleen", "@spleen", "spleen#1"])
def test_a_bundle_with_a_name_that_is_code_is_refused(unread_bundle: Path, name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the name of"):
        make_label_folder(tmp_path / "app", [unread_bundle.rename(tmp_path / name)])
    assert not (tmp_path / "app").exists()


def test_a_bundle_of_another_task_is_refused(unread_bundle: Path, tmp_path: Path) -> None:
    path = unread_bundle / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["network_data_format"]["outputs"]["pred"]["format"] = "probabilities"
    path.write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="expected a segmentation bundle"):
        make_label_folder(tmp_path / "app", [unread_bundle])


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "{}", '{"network_data_format": {"outputs": {}}, "task": "x"}', "[" * 5000]
)
def test_metadata_that_say_no_output_are_refused(text: str, unread_bundle: Path, tmp_path: Path) -> None:
    (unread_bundle / "configs" / "metadata.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="metadata.json: expected MONAI's metadata of a bundle") as caught:
        make_label_folder(tmp_path / "app", [unread_bundle])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "app").exists()


def test_no_folder_of_the_user_is_taken_for_an_unfinished_one(unread_bundle: Path, tmp_path: Path) -> None:
    mine = tmp_path / ".app.part" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine", encoding="utf-8")
    make_label_folder(tmp_path / "app", [unread_bundle])
    assert mine.read_text(encoding="utf-8") == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".app.part", "app", "spleen"]
