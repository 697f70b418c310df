# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import monai
import pytest
import torch
from monai.engines import SupervisedTrainer
from monai.utils import set_determinism

from monai_essa.engines.checkpoint import write_resume_file
from monai_essa.engines.epochs import run_trainer
from monai_essa.engines.folder.run_folder import finish_run, open_run, run_iterations
from monai_essa.methods import LoRA

CONFIG = {"lr": 1.0e-3, "method": "apla"}


@pytest.fixture
def items(tmp_path: Path) -> dict[str, list[dict[str, str]]]:
    image = tmp_path / "DOE_JANE" / "scan_1958.nii.gz"
    image.parent.mkdir()
    image.write_bytes(b"voxels")
    return {"training": [{"image": str(image)}], "validation": []}


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def test_a_new_run_is_described(items: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "monai.bundle", "run"])
    open_run(tmp_path / "run", CONFIG, items, seed=3)
    record = read(tmp_path / "run")
    assert record["status"] == "running"
    assert record["seed"] == 3
    assert record["items"] == {"training": 1, "validation": 0}
    assert record["versions"]["monai"] == monai.__version__
    assert record["versions"]["torch"] == torch.__version__
    assert record["started"].endswith("+00:00")
    assert record["command"] == "python -m monai.bundle run"


def test_the_description_names_no_patient_and_no_folder(
    items: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["/opt/env/bin/python", "-m", "monai.bundle", "run", "--args_file", "/home/doe/my_site.yaml"]
    private = [
        "--dataset_dir=/data/DOE_JANE",
        "--pretrained",
        "C:\\weights\\DOE\\vit.pt",
        "--train#x",
        "['/mnt/DOE/a.nii.gz']",
    ]
    monkeypatch.setattr(sys, "orig_argv", command + private)
    monkeypatch.setattr(sys, "argv", ["/opt/env/lib/monai/bundle/__main__.py"])
    open_run(tmp_path / "run", CONFIG, items, seed=3)
    text = (tmp_path / "run" / "run.json").read_text()
    assert "DOE" not in text and "doe" not in text and "scan_1958" not in text and str(tmp_path) not in text
    assert read(tmp_path / "run")["command"] == (
        "python -m monai.bundle run --args_file my_site.yaml --dataset_dir=<path> --pretrained vit.pt "
        "--train#x ['<path>']"
    )


def test_an_unfinished_run_goes_on_and_keeps_its_start(items: Any, tmp_path: Path) -> None:
    first = open_run(tmp_path / "run", CONFIG, items, seed=3)
    before = (tmp_path / "run" / "run.json").read_text()
    again = open_run(tmp_path / "run", dict(reversed(CONFIG.items())), items, seed=3)
    assert again == first
    assert (tmp_path / "run" / "run.json").read_text() == before


def checkpoint(run: Path) -> None:
    write_resume_file(run / "resume", 1, {})


@pytest.mark.parametrize(
    ("config", "seed", "named"), [(CONFIG | {"lr": 1.0e-4}, 3, "lr"), (CONFIG, 4, "seed"), ({}, 3, "lr, method")]
)
def test_an_unfinished_run_with_other_values_is_refused_by_their_names(
    config: Any, seed: int, named: str, items: Any, tmp_path: Path
) -> None:
    open_run(tmp_path / "run", CONFIG, items, seed=3)
    checkpoint(tmp_path / "run")
    before = (tmp_path / "run" / "run.json").read_text()
    with pytest.raises(ValueError, match=f"unfinished run with other values of {named}: give another output folder"):
        open_run(tmp_path / "run", config, items, seed=seed)
    assert (tmp_path / "run" / "run.json").read_text() == before


def test_an_unfinished_run_on_other_data_is_refused(items: Any, tmp_path: Path) -> None:
    open_run(tmp_path / "run", CONFIG, items, seed=3)
    checkpoint(tmp_path / "run")
    Path(items["training"][0]["image"]).write_bytes(b"other voxels")
    with pytest.raises(ValueError, match="other values of data"):
        open_run(tmp_path / "run", CONFIG, items, seed=3)


def test_a_run_that_ended_before_its_first_checkpoint_begins_again_with_other_values(
    items: Any, tmp_path: Path
) -> None:
    first = open_run(tmp_path / "run", CONFIG, items, seed=3)
    Path(items["training"][0]["image"]).write_bytes(b"repaired voxels")
    second = open_run(tmp_path / "run", CONFIG | {"lr": 1.0e-4}, items, seed=4)
    assert second.fingerprint != first.fingerprint
    assert read(tmp_path / "run")["seed"] == 4


def test_a_finished_run_is_never_written_over(items: Any, tmp_path: Path) -> None:
    open_run(tmp_path / "run", CONFIG, items, seed=3)
    finish_run(tmp_path / "run")
    record = read(tmp_path / "run")
    assert record["status"] == "finished"
    assert record["finished"] >= record["started"]
    with pytest.raises(FileExistsError, match=r"run holds a finished run: give another output folder, or delete"):
        open_run(tmp_path / "run", CONFIG, items, seed=3)
    assert read(tmp_path / "run") == record


@pytest.mark.parametrize("count", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_a_run_that_was_lost_after_its_end_ends_well_when_it_is_started_again(
    count: str, items: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_run(tmp_path / "run", CONFIG, items, seed=3)
    finish_run(tmp_path / "run")
    record = read(tmp_path / "run")
    monkeypatch.setenv(count, "1")
    with pytest.raises(SystemExit) as ended:
        open_run(tmp_path / "run", CONFIG, items, seed=3)
    assert ended.value.code == 0 and read(tmp_path / "run") == record
    with pytest.raises(FileExistsError, match="holds a finished run"):
        open_run(tmp_path / "run", CONFIG, items, seed=4)
    monkeypatch.setenv(count, "0")
    with pytest.raises(FileExistsError, match="holds a finished run"):
        open_run(tmp_path / "run", CONFIG, items, seed=3)


def test_a_finished_run_keeps_no_resume_files_unless_told(items: Any, tmp_path: Path) -> None:
    for name, keep in (("run", False), ("kept", True)):
        open_run(tmp_path / name, CONFIG, items, seed=3)
        checkpoint(tmp_path / name)
        finish_run(tmp_path / name, keep_resume=keep)
    assert not (tmp_path / "run" / "resume").exists()
    assert len(list((tmp_path / "kept" / "resume").glob("*.pt"))) == 1


def test_finishing_deletes_nothing_but_resume_files(items: Any, tmp_path: Path) -> None:
    open_run(tmp_path / "run", CONFIG, items, seed=3)
    checkpoint(tmp_path / "run")
    (tmp_path / "run" / "resume" / "notes.txt").write_text("mine", encoding="utf-8")
    finish_run(tmp_path / "run")
    assert [file.name for file in (tmp_path / "run" / "resume").iterdir()] == ["notes.txt"]


def test_fingerprints_of_different_runs_differ(items: Any, tmp_path: Path) -> None:
    runs = [(CONFIG, 3), (CONFIG, 4), (CONFIG | {"lr": 1.0}, 3)]
    prints = {open_run(tmp_path / str(n), *run[:1], items, seed=run[1]).fingerprint for n, run in enumerate(runs)}
    assert len(prints) == 3


@pytest.mark.parametrize("damage", ["{", "[]", '{"seed": 3}', ""])
def test_a_damaged_description_is_named(damage: str, items: Any, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(damage)
    with pytest.raises(ValueError, match=r"run\.json is damaged: give another output folder"):
        open_run(tmp_path, CONFIG, items, seed=3)


def test_a_missing_scan_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_run(tmp_path / "run", CONFIG, {"training": [{"image": "gone.nii.gz"}]}, seed=3)
    assert not (tmp_path / "run").exists()


def test_a_run_that_was_not_opened_cannot_be_finished(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"open_run\(\) must come before"):
        finish_run(tmp_path)


def test_notes_are_written_as_they_are(items: Any, tmp_path: Path) -> None:
    open_run(tmp_path / "run", CONFIG, items, seed=3, notes={"stage": "tpp", "frozen": True})
    finish_run(tmp_path / "run", iterations=12)
    assert read(tmp_path / "run")["notes"] == {"stage": "tpp", "frozen": True}


def test_the_iterations_of_a_finished_run_are_read_back(items: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run holds no run.json: give the folder of a finished run"):
        run_iterations(tmp_path / "run")
    open_run(tmp_path / "run", CONFIG, items, seed=3)
    with pytest.raises(ValueError, match="run.json does not say how many iterations it took: name the folder"):
        run_iterations(tmp_path / "run")
    finish_run(tmp_path / "run", iterations=12)
    assert run_iterations(tmp_path / "run") == 12


def test_settings_with_a_key_are_shown_as_they_are(items: Any, tmp_path: Path) -> None:
    network = {"network": {"network_def": torch.nn.Linear(2, 2)}, "method": {"method": LoRA(rank=4)}}
    open_run(tmp_path / "run", CONFIG | network | {"images": {"spacing": (1.0, 2.0)}}, items, seed=3)
    settings = read(tmp_path / "run")["settings"]
    assert settings["network_def"] == "Linear"
    assert (settings["method"]["class"], settings["method"]["rank"]) == ("LoRA", 4)
    assert settings["spacing"] == [1.0, 2.0]
    assert "lr" not in settings  # it has no key


def test_an_unfinished_run_of_another_layout_is_refused_and_a_finished_one_is_not_begun_again(
    items: Any, tmp_path: Path
) -> None:
    open_run(tmp_path / "run", CONFIG, items, seed=3)
    record = read(tmp_path / "run")
    assert record.pop("layout") > 1
    (tmp_path / "run" / "run.json").write_text(json.dumps(record), encoding="utf-8")
    open_run(tmp_path / "run", CONFIG, items, seed=3)  # before its first checkpoint
    write_resume_file(tmp_path / "run" / "resume", 1, {})
    with pytest.raises(ValueError, match="another version of monai_essa.*'monai-essa bundles copy'"):
        open_run(tmp_path / "run", CONFIG, items, seed=3)
    (tmp_path / "run" / "run.json").write_text(json.dumps(record | {"status": "finished", "iterations": 7}))
    assert run_iterations(tmp_path / "run") == 7


def test_a_trainer_starts_only_after_initialize_has_set_the_seed() -> None:
    ran: list[int] = []
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=[0],
        network=None,
        optimizer=None,
        loss_function=None,
        iteration_update=lambda engine, batch: ran.append(batch),
    )
    set_determinism(seed=None)
    with pytest.raises(RuntimeError, match="expected 'initialize' to have set the seed 3 before 'run', got None"):
        run_trainer(trainer, 3)
    assert not ran
    set_determinism(seed=3)
    run_trainer(trainer, 3)
    assert ran == [0]
