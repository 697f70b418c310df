# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""TPP on hippocampus with its controls runs by the commands that the bundle's README shows, in their short form."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow
from safetensors.torch import load_file

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
README = (BUNDLES / "essa_tpp" / "docs" / "README.md").read_text(encoding="utf-8")
SECTION = README[README.index("## Segmentation: hippocampus") : README.index("## Classification: pneumonia")]
AFTER = README[README.index("## After a run") : README.index("## Overlays")]
RUNS = ("seg_tpp", "seg_zero", "seg_random", "seg_longer", "seg_ssa")
# Two small training steps a stage; all else is as shown.
SHORT = {"hidden_size": 24, "mlp_dim": 48, "num_heads": 3}


def commands(text: str) -> list[str]:
    return re.findall(r"^python -m monai\.bundle run .*hippocampus\.yaml.*$", text, re.MULTILINE)


def run(command: str) -> None:
    """What `python -m monai.bundle run` does with the options of a command."""
    words = shlex.split(command)[4:]
    options = {name.removeprefix("--"): value(text) for name, text in zip(words[::2], words[1::2], strict=True)}
    feature_size = {"feature_size": 4} if "essa_segmentation" in command else {}
    files = options.pop("config_file")
    workflow = ConfigWorkflow(files, logging_file=False, workflow_type="train", max_epochs=1, **feature_size, **options)
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def record(run_folder: str) -> dict[str, Any]:
    return json.loads(Path("runs", run_folder, "run.json").read_text(encoding="utf-8"))


@pytest.mark.full
@pytest.mark.slow  # ten commands; tests/bundles/test_docs.py checks their files and keys in `make test`
def test_hippocampus_and_its_controls(hippocampus_tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(BUNDLES, tmp_path / "bundles")
    monkeypatch.chdir(tmp_path / "bundles" / "essa_tpp")
    (shown,) = re.findall(r"`hippocampus\.yaml`:\n\n```yaml\n(.*?)```", SECTION, re.DOTALL)
    for name, size in SHORT.items():
        shown, count = re.subn(rf"^{name}: \d+$", f"{name}: {size}", shown, flags=re.MULTILINE)
        assert count == 1
    Path("hippocampus.yaml").write_text(shown, encoding="utf-8")
    given = [*commands(SECTION), *commands(AFTER)]
    for command in given:
        run(command.replace("$DATA", str(hippocampus_tiny)))

    assert len(given) == 10
    learned = load_file("runs/tpp/adapter.safetensors")
    assert learned and all(".lora_" in name for name in learned)
    assert record("tpp")["notes"]["stage"] == "tpp"
    notes = {name: record(name)["notes"] for name in RUNS}
    assert {name: note["start"] for name, note in notes.items()} == dict.fromkeys(RUNS, "encoder") | {
        "seg_tpp": "adapter"
    }
    assert [name for name, note in notes.items() if note["initialisation"] == "random"] == ["seg_random"]
    assert [name for name, note in notes.items() if note["extra_epochs"]] == ["seg_longer"]
    assert Path("runs/seg_tpp/test/dice_raw.csv").is_file()
    assert Path("runs/tpp/reconstructions/0000.png").is_file()


def test_the_loss_curves_are_drawn_from_runs_of_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", AFTER, re.DOTALL)
    folders = re.findall(r'"(runs/\w+)"', code)
    assert folders and all(f"--output_dir {folder}\n" in SECTION for folder in folders)
    for folder in folders:
        Path(folder).mkdir(parents=True)
        rows = [{"epoch": epoch, "iteration": epoch, "lr": 0.1, "loss": 1 / epoch} for epoch in (1, 2)]
        Path(folder, "losses.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    exec(compile(code, "README.md", "exec"), {})
    assert Path("loss_curves.png").is_file()
