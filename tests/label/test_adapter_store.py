# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from monai_essa.label.store import AdapterStore


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "adapters")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return adapter(tmp_path / "adapter.safetensors")


def adapter(path: Path, name: str = "network:out.weight") -> Path:
    save_file({name: torch.arange(3.0)}, path, metadata={"monai_essa": "{}"})
    return path


def numbers(store: AdapterStore, name: str = "site") -> list[int]:
    return [entry["version"] for entry in store.versions(name)]


def test_an_empty_store_has_nothing(store: AdapterStore) -> None:
    assert (store.names(), store.current("site"), store.current("base")) == ([], None, None)
    assert store.problems() == []


def test_undo_goes_back_and_the_next_version_is_a_new_number(store: AdapterStore, file: Path) -> None:
    assert [store.add("site", file, {"labels": count}) for count in (3, 5)] == [1, 2]
    assert store.undo("site") == 1
    assert store.current("site") == store.folder / "site" / "001.safetensors"
    assert store.add("site", file, {"labels": 7}) == 3
    assert numbers(store) == [1, 3]
    assert torch.equal(load_file(store.current("site"))["network:out.weight"], torch.arange(3.0))
    assert store.problems() == []


def test_undo_of_the_first_version_is_the_base(store: AdapterStore, file: Path) -> None:
    store.add("site", file, {})
    assert store.undo("site") == 0
    assert (store.names(), store.current("site")) == ([], None)
    with pytest.raises(ValueError, match="nothing to undo"):
        store.undo("site")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b", "x" * 65, "a\n"])
def test_a_name_that_is_no_plain_one_is_refused(store: AdapterStore, file: Path, name: str) -> None:
    with pytest.raises(ValueError, match="expected a name of letters"):
        store.add(name, file, {})
    with pytest.raises(ValueError, match="expected a name of letters"):
        store.current(name)


@pytest.mark.parametrize("name", ["base", "latest"])
def test_no_adapter_takes_a_name_that_means_something_else(store: AdapterStore, file: Path, name: str) -> None:
    with pytest.raises(ValueError, match="expected another name"):
        store.add(name, file, {})


def test_inference_passes_over_what_ssa_made(store: AdapterStore, file: Path) -> None:
    store.add("only_ssa", file, {"stage": "ssa"})
    assert (store.sites(), store.names(), store.current("only_ssa")) == (["only_ssa"], [], None)
    store.add("site", file, {"labels": 3})
    store.add("site", file, {"stage": "ssa"})
    assert (store.names(), store.newest("another"), store.current("another")) == (["site"], None, None)
    assert store.current("site") == store.file("site", 1)
    assert store.newest("site")["version"] == 2
    assert store.undo("site") == 1
    assert store.newest("site")["version"] == 1


def test_the_site_that_was_trained_last_comes_first(store: AdapterStore, file: Path) -> None:
    for number, site in enumerate(("a", "b", "a")):
        store.add(site, file, {})
        os.utime(store.current(site), ns=(number, number))
    assert store.names() == ["a", "b"]
    store.undo("a")
    store.add("a", file, {"stage": "ssa"})
    assert store.names() == ["b", "a"]


def test_a_version_that_is_not_promoted_is_kept_and_used_by_nothing(store: AdapterStore, file: Path) -> None:
    store.add("site", file, {"dice": 0.8})
    held_out = {"volumes": 2, "dice": 0.5, "before": 0.8}
    assert store.add("site", file, {"dice": 0.5, "promoted": False, "held_out": held_out}) == 2
    assert numbers(store) == [1, 2]
    assert store.current("site") == store.file("site", 1)
    assert store.newest("site")["version"] == 1
    assert store.undo("site") == 0  # of version 1, which was in use
    assert numbers(store) == [2]
    assert store.current("site") is None


@pytest.mark.parametrize(
    "note", [{"labels": -1}, {"dice": float("nan")}, {"path": "/x"}, {"stage": "other"}, {"promoted": "no"}]
)
def test_a_note_has_a_form(store: AdapterStore, file: Path, note: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="a version of site"):
        store.add("site", file, note)
    assert store.versions("site") == []


def test_a_file_that_is_no_adapter_is_not_added(store: AdapterStore, tmp_path: Path) -> None:
    plain = tmp_path / "plain.safetensors"
    save_file({"x": torch.zeros(1)}, plain)
    plain_bytes = plain.read_bytes()
    for content in (b"", b"tensors", plain_bytes):
        plain.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged or no adapter file"):
            store.add("site", plain, {})
    assert store.sites() == []


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_text(""),
    "cut off": lambda path: path.write_text(path.read_text()[:20]),
    "other JSON": lambda path: path.write_text('{"version": 1}'),
    "unknown field": lambda path: path.write_text('[{"version": 1, "path": "/x"}]'),
    "version as text": lambda path: path.write_text('[{"version": "../../1"}]'),
    "twice": lambda path: path.write_text('[{"version": 1}, {"version": 1}]'),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_history_is_read_from_its_copy(
    store: AdapterStore, file: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for count in (1, 2, 3):
        store.add("site", file, {"labels": count})
    store.undo("site")
    DAMAGE[damage](store.folder / "site" / "history.json")
    assert (store.sites(), store.names(), store.current("site")) == (["site"], ["site"], store.file("site", 2))
    assert [entry["labels"] for entry in store.versions("site")] == [1, 2]
    (line,) = store.problems()
    assert line.startswith("adapter site: history.json is missing or damaged")
    assert line.endswith("its copy is used")
    assert caplog.text.count("its copy is used") == 1
    assert store.add("site", file, {"labels": 4}) == 4  # and the history is whole again
    assert (numbers(store), store.problems()) == ([1, 2, 4], [])


@pytest.mark.parametrize("damage", DAMAGE)
def test_without_a_copy_the_adapter_files_tell(store: AdapterStore, file: Path, damage: str, tmp_path: Path) -> None:
    for count in (1, 2, 3):
        store.add("site", file, {"labels": count})
    store.add("site", adapter(tmp_path / "ssa.safetensors", "encoder:blocks.0.weight"), {"stage": "ssa"})
    for path in (store.folder / "site" / "history.json", store.folder / ".backup" / "site.json"):
        DAMAGE[damage](path)
    store.file("site", 3).write_bytes(store.file("site", 3).read_bytes()[:-1])
    assert store.current("site") == store.file("site", 2)
    assert store.newest("site") == {"version": 4, "stage": "ssa"}
    assert store.problems()[0].endswith("the adapter files that are whole are used, without their notes")


@pytest.mark.parametrize("content", [None, b"", b"cut"])
def test_a_version_without_its_file_is_passed_over(
    store: AdapterStore, file: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    for count in (1, 2):
        store.add("site", file, {"labels": count})
    if content is None:
        store.file("site", 2).unlink()
    else:
        store.file("site", 2).write_bytes(content)
    assert store.current("site") == store.file("site", 1)
    assert store.problems() == ["adapter site: version 2 is missing or damaged and is passed over"]
    assert "version 2 is missing or damaged" in caplog.text
    assert store.add("site", file, {}) == 3
    store.undo("site")
    store.file("site", 1).unlink()
    assert (store.names(), store.current("site")) == ([], None)
    assert store.sites() == ["site"]


def test_a_history_holds_versions_and_no_paths(store: AdapterStore, file: Path) -> None:
    store.add("site", file, {"labels": 3, "trained_on": ["0123456789abcdef"], "loss": [1.0, 0.5], "seconds": 9})
    for path in (store.folder / "site" / "history.json", store.folder / ".backup" / "site.json"):
        assert json.loads(path.read_text())[0]["labels"] == 3
    assert sorted(path.name for path in (store.folder / "site").iterdir()) == ["001.safetensors", "history.json"]
