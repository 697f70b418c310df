# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from monai_essa.label.adapter_store import AdapterStore


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "adapters")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "adapter.safetensors"
    path.write_text("tensors", encoding="utf-8")
    return path


def test_an_empty_store_has_nothing(store: AdapterStore) -> None:
    assert (store.names(), store.current("site"), store.current("base")) == ([], None, None)


def test_undo_goes_back_and_the_next_version_is_a_new_number(store: AdapterStore, file: Path) -> None:
    assert [store.add("site", file, {"labels": count}) for count in (3, 5)] == [1, 2]
    assert store.undo("site") == 1
    assert store.current("site") == store.folder / "site" / "001.safetensors"
    assert store.add("site", file, {"labels": 7}) == 3
    assert [entry["version"] for entry in store.versions("site")] == [1, 3]
    assert store.current("site").read_text() == "tensors"


def test_undo_of_the_first_version_is_the_base(store: AdapterStore, file: Path) -> None:
    store.add("site", file, {})
    assert store.undo("site") == 0
    assert (store.names(), store.current("site")) == ([], None)
    with pytest.raises(ValueError, match="nothing to undo"):
        store.undo("site")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b", "x" * 65])
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
    assert store.names() == ["site"]
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
