# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Folders for the Hugging Face hub: read back, described truthfully, with the licence, and nothing taken on trust."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from monai.networks.nets import ViT

from monai_essa import adapt, load_adapter, save_adapter
from monai_essa.adapters.hub.card import CardFacts, markdown_text
from monai_essa.adapters.hub.folder import export_hub
from monai_essa.adapters.record import read_header
from monai_essa.licence import keep_origin
from monai_essa.methods import APLA

ND = {
    "family": "someone's weights",
    "sha256": 64 * "a",
    "licence": "CC BY-NC-ND 4.0",
    "url": "https://example.org/by-nc-nd",
    "read": None,
    "restrictions": ["NC", "ND"],
    "cite": ["A. Author, *Weights* <b>2025</b>"],
}


def vit(origin: dict | None = None) -> ViT:
    torch.manual_seed(0)
    net = ViT(1, 32, 16, 24, 48, 2, 4, spatial_dims=2)
    if origin is not None:
        keep_origin(net, origin)
    return net


def saved(folder: Path, origin: dict | None = None, **card) -> Path:
    net = adapt(vit(origin), APLA(columns=3))
    with torch.no_grad():
        net.blocks[0].attn.out_proj.rows += 1
    return save_adapter(net, folder / "adapter.safetensors", card)


def parts(readme: Path) -> tuple[dict, str]:
    _, matter, text = readme.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(matter), text


def test_a_folder_loads_as_its_file_does(tmp_path: Path) -> None:
    path = saved(tmp_path)
    folder = export_hub(path, tmp_path / "hub").path
    images = torch.rand(1, 1, 32, 32)
    assert torch.equal(load_adapter(vit(), folder)(images)[0], load_adapter(vit(), path)(images)[0])


def test_a_run_folder_stands_for_its_adapter(tmp_path: Path) -> None:
    saved(tmp_path)
    folder = export_hub(tmp_path, tmp_path / "hub").path
    assert read_header(folder).record == read_header(tmp_path).record
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_the_card_has_what_the_hub_reads_and_what_a_reader_needs(tmp_path: Path) -> None:
    facts = CardFacts(
        performance=("Mean Dice 0.81 over 12 test patients.",),
        metrics=("dice",),
        data=("12 scans.",),
        base_model="owner/base-1",
    )
    folder = export_hub(saved(tmp_path, spacing=[1.0, 1.5], intensity="mr"), tmp_path / "hub", facts).path
    matter, text = parts(folder / "README.md")
    assert matter == {
        "base_model": "owner/base-1",
        "library_name": "monai_essa",
        "license": "unknown",
        "tags": ["monai", "monai_essa", "medical-imaging", "adapter", "apla"],
        "metrics": ["dice"],
    }
    for said in ("Mean Dice 0.81", "12 scans.", "spacing: \\[1.0, 1.5\\]", "## Intended use", "## Limits", "ViT"):
        assert said in text
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["network"], config["methods"][0]["name"]) == ("ViT", "APLA")


def test_the_licence_of_the_base_travels(tmp_path: Path) -> None:
    path = saved(tmp_path, ND)
    with pytest.raises(ValueError, match="--permission TEXT"):
        export_hub(path, tmp_path / "hub")
    folder = export_hub(path, tmp_path / "hub", CardFacts(permission="mail of the authors, 2 March")).path
    matter, text = parts(folder / "README.md")
    assert (matter["license"], matter["base_model"]) == ("cc-by-nc-nd-4.0", "someone-s-weights")
    assert "mail of the authors, 2 March" in text and "\\*Weights\\* &lt;b&gt;" in text
    assert "CC BY-NC-ND 4.0" in (folder / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("licence", "url", "expected"),
    [
        (None, None, {"license": "unknown"}),
        ("MIT", None, {"license": "mit"}),
        (
            "a licence of its own: ask\u2026",
            "https://example.org",
            {"license": "other", "license_name": "a-licence-of-its-own-ask", "license_link": "https://example.org"},
        ),
    ],
)
def test_licences_have_identifiers_of_the_hub(licence, url, expected, tmp_path: Path) -> None:
    origin = {**ND, "licence": licence, "url": url, "restrictions": None}
    matter, _ = parts(export_hub(saved(tmp_path, origin), tmp_path / "hub").path / "README.md")
    assert {key: value for key, value in matter.items() if key.startswith("license")} == expected


def test_code_for_a_config_is_refused_and_a_lone_dash_ends_nothing(tmp_path: Path) -> None:
    code = saved(tmp_path, {**ND, "restrictions": [], "licence": "MIT", "family": "$import os"})
    with pytest.raises(ValueError, match="is code to MONAI"):
        export_hub(code, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()
    odd = {**ND, "restrictions": [], "licence": "---", "url": "x: {y: [", "family": "a: b # c"}
    matter, _ = parts(export_hub(saved(tmp_path, odd), tmp_path / "hub").path / "README.md")
    assert (matter["license_link"], matter["base_model"], matter["license_name"]) == ("x: {y: [", "a-b-c", "other")


@pytest.mark.parametrize("name", ["a/b/c", "../x", "a b", "", "https://x"])
def test_a_base_model_is_an_identifier(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--base-model"):
        export_hub(saved(tmp_path), tmp_path / "hub", CardFacts(base_model=name))


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    with pytest.raises(FileExistsError, match="expected a new folder"):
        export_hub(saved(tmp_path), tmp_path / "hub")
    assert not list((tmp_path / "hub").iterdir())


@pytest.mark.parametrize("text", ["<script>", "[x](y)", "`a`", "a\n# b", "![i](u)", "| a |", "&lt;"])
def test_markdown_shows_text_as_it_is(text: str) -> None:
    shown = markdown_text(text)
    assert "<" not in shown and "\n" not in shown
    assert not any(mark in shown.replace(f"\\{mark}", "") for mark in "[`*|")
