# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`run` is `python -m monai.bundle run`; with --dry-run its options mean the same and nothing is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from monai_essa.bundling.folder import bundle_folder
from monai_essa.cli import main


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config whose run writes what it was given."""
    text = {"imports": ["$import json"], "a": 1, "b": {"c": [1, 2]}, "out": str(tmp_path / "out.json")}
    text["run"] = ["$open(@out, 'w').write(json.dumps([@a, @b]))"]
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(text), encoding="utf-8")
    return tmp_path / "train.yaml"


@pytest.fixture
def dry(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the dry run is called with."""
    called: dict[str, Any] = {}

    def dry_run(config_files: list[str], values: dict[str, Any]) -> int:
        called.update(config_files=config_files, values=values)
        return 0

    monkeypatch.setattr("monai_essa.cli.run_commands.dry_run", dry_run)
    return called


def test_a_bundle_is_run_with_the_options_of_monai_bundle(monai_essa, config: Path, tmp_path: Path) -> None:
    assert monai_essa("run", "--config_file", config, "--a", "3", "--b#c", "[5]").code == 0
    assert json.loads((tmp_path / "out.json").read_text()) == [3, {"c": [5]}]


def test_the_id_that_is_run_may_be_named(monai_essa, config: Path, tmp_path: Path) -> None:
    with config.open("a", encoding="utf-8") as file:
        file.write("other: [\"$open(@out, 'w').write('[]')\"]\n")
    assert monai_essa("run", "other", "--config_file", config).code == 0
    assert json.loads((tmp_path / "out.json").read_text()) == []


def test_an_error_of_a_run_is_one_line_at_the_end(monai_essa, config: Path) -> None:
    given = monai_essa("run", "--config_file", config, "--a", "$1 / 0")
    assert given.code == 1
    assert given.err.splitlines()[-1] == "monai-essa: division by zero"


def test_a_missing_config_is_named(monai_essa, tmp_path: Path) -> None:
    given = monai_essa("run", "--config_file", tmp_path / "none.yaml")
    assert given.code == 1
    assert "none.yaml" in given.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "files", "values"),
    [
        (["--config_file", "a.yaml"], ["a.yaml"], {}),
        (["--config_file", "['a.yaml', 'b.yaml']", "--lr", "1e-3"], ["a.yaml", "b.yaml"], {"lr": 1e-3}),
        (["--config_file=a.yaml", "--img_size=[32,32,32]"], ["a.yaml"], {"img_size": [32, 32, 32]}),
        (["--config_file", "a.yaml", "--train#trainer#max_epochs", "2"], ["a.yaml"], {"train#trainer#max_epochs": 2}),
        (["training", "--config_file", "a.yaml", "--logging_file", "x.conf", "--flag"], ["a.yaml"], {"flag": True}),
    ],
)
def test_the_options_of_a_dry_run_are_those_of_a_run(
    options: list[str], files: list[str], values: dict[str, Any], monai_essa, dry: dict[str, Any]
) -> None:
    assert monai_essa("run", "--dry-run", *options).code == 0
    assert dry == {"config_files": files, "values": values}


def test_options_are_over_those_of_the_args_file(monai_essa, dry: dict[str, Any], tmp_path: Path) -> None:
    site = {"config_file": ["a.yaml", "b.yaml"], "run_id": "training", "lr": 0.1, "labels": {"background": 0}}
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(site), encoding="utf-8")
    assert monai_essa("run", "--args_file", tmp_path / "site.yaml", "--lr", "0.2", "--dry-run").code == 0
    assert dry == {"config_files": ["a.yaml", "b.yaml"], "values": {"lr": 0.2, "labels": {"background": 0}}}


def test_a_dry_run_without_a_config_is_one_line(monai_essa, dry: dict[str, Any]) -> None:
    given = monai_essa("run", "--dry-run", "--lr", "0.1")
    assert (given.code, dry) == (1, {})
    assert given.err.splitlines() == [
        "monai-essa: no config: give --config_file FILE, or --args_file FILE with a 'config_file' in it"
    ]


def test_nothing_is_run_by_a_dry_run(monai_essa, config: Path, tmp_path: Path) -> None:
    given = monai_essa("run", "--dry-run", "--config_file", config)
    assert given.code == 1
    assert "has no 'datalist'; --dry-run is for a train.yaml of monai_essa" in given.err
    assert not (tmp_path / "out.json").exists()


@pytest.mark.slow  # trains for an epoch
def test_the_eight_lines_of_a_site_are_enough(volumes: Path, files, tmp_path: Path) -> None:
    """The own-data path: one file, checked dry, then run, and the folder of a finished run is left alone."""
    site = {
        "config_file": str(bundle_folder("essa_ssa") / "configs" / "train.yaml"),
        "dataset_dir": str(volumes),
        "output_dir": str(tmp_path / "run"),
        "pretrained": str(files.base),
        "max_epochs": 1,
        "img_size": [32, 32, 32],
        **{"hidden_size": 48, "mlp_dim": 96, "num_heads": 4},
    }
    (tmp_path / "my_site.yaml").write_text(yaml.safe_dump(site), encoding="utf-8")
    command = ["run", "--args_file", str(tmp_path / "my_site.yaml")]
    assert main([*command, "--dry-run"]) == 0
    assert not (tmp_path / "run").exists()
    assert main(command) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert "model.pt" in {path.name for path in before}
    assert main(command) == 1
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


@pytest.mark.parametrize("dry", [["--dry-run"], []])
@pytest.mark.parametrize("option", ["--config_file", "--args_file", "listed"])
def test_a_config_that_is_no_mapping_is_one_line(dry: list[str], option: str, monai_essa, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1, 2]", encoding="utf-8")
    (tmp_path / "site.json").write_text(json.dumps({"config_file": str(tmp_path / "list.json")}), encoding="utf-8")
    named = ["--args_file", tmp_path / "site.json"] if option == "listed" else [option, tmp_path / "list.json"]
    given = monai_essa("run", *dry, *named)
    assert (given.code, len(given.err.splitlines())) == (1, 1)
    assert given.err.startswith(
        f"monai-essa: {tmp_path / 'list.json'}: expected a config, which is a mapping, got [1, 2]"
    )
