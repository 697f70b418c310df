# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A stage is a file of arguments, and runs as its command does."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from monai_essa.study import stages as stage_module
from monai_essa.study.stages import Stage, follow_folder, run_stage, stage_command, stage_file, write_stage

CONFIG = """
factor: 2
numbers: [1, 2]
initialize:
- $@numbers.append(3)
run:
- $setattr(@state, 'total', @factor * sum(@numbers))
state:
  _target_: types.SimpleNamespace
"""


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    configs = tmp_path / "bundle" / "configs"
    configs.mkdir(parents=True)
    (configs / "train.yaml").write_text(CONFIG, encoding="utf-8")
    (configs / "large.yaml").write_text("factor: 100\n", encoding="utf-8")
    monkeypatch.setattr(stage_module, "bundle_folder", {"essa_ssa": tmp_path / "bundle"}.__getitem__)
    return Stage("add", "adding numbers", "essa_ssa", ("train.yaml", "large.yaml"), {"numbers": [4, 5]})


def test_the_file_holds_configs_and_values(stage: Stage, tmp_path: Path) -> None:
    path = write_stage(stage, tmp_path / "demo")
    arguments = ConfigParser.load_config_file(path)

    assert [Path(file).name for file in arguments.pop("config_file")] == ["train.yaml", "large.yaml"]
    assert arguments == {"numbers": [4, 5]}
    assert path.read_text(encoding="utf-8").startswith("# adding numbers\n")


def test_values_win_over_overlays_and_overlays_over_the_config(stage: Stage, tmp_path: Path) -> None:
    parser, seconds = run_stage(write_stage(stage, tmp_path))

    assert parser.get_parsed_content("state").total == 100 * (4 + 5 + 3)
    assert 0 < seconds < 60


def test_the_command_survives_a_folder_with_a_space(stage: Stage, tmp_path: Path) -> None:
    path = write_stage(stage, tmp_path / "my demo")

    parts = shlex.split(stage_command(path, tmp_path / "my demo_again"))

    assert parts[:4] == ["python", "-m", "monai.bundle", "run"]
    assert parts[4:] == ["--args_file", path.as_posix(), "--output_dir", (tmp_path / "my demo_again").as_posix()]
    assert "--output_dir" not in stage_command(path)


def test_a_value_that_monai_would_run_is_refused(stage: Stage, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    planted = replace(stage, values={"data": [{"image": f"$__import__('pathlib').Path({str(marker)!r}).touch()"}]})
    with pytest.raises(ValueError, match="^data.*: text that begins with"):
        write_stage(planted, tmp_path)
    assert not marker.exists()
    assert not stage_file(planted, tmp_path).exists()


def test_the_stages_of_a_moved_study_name_its_new_folder(stage: Stage, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    values = {"output_dir": str(old / "runs" / "add"), "pretrained": str(old / "runs" / "base" / "model.pt")}
    write_stage(replace(stage, values=values), old)
    assert follow_folder(old) is None
    old.rename(new)
    assert follow_folder(new) == old and follow_folder(new) is None
    arguments = ConfigParser.load_config_file(stage_file(stage, new))
    assert arguments["output_dir"] == str(new / "runs" / "add")
    assert arguments["pretrained"] == str(new / "runs" / "base" / "model.pt")
