# Copyright (c) The monai_essa authors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""What the README shows runs: its Python example, and its commands in their short form on the smallest real data."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.networks.nets import ViT
from safetensors.torch import load_file

from monai_essa import adapt, load_adapter, save_adapter

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = {
    "hidden_size": "hidden_size: 24",
    "mlp_dim": "mlp_dim: 48",
    "num_heads": "num_heads: 4",
    "feature_size": "feature_size: 4",
}


def blocks(language: str, after: str = "# ", before: str = "## Papers") -> list[str]:
    """The blocks between two headings."""
    text = README[README.index(after) : README.index(before)]
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(ViT(1, 32, 16, 24, 48, 12, 4, qkv_bias=True).state_dict(), "vit.pt")
    (code,) = blocks("python")
    assert "img_size=(96, 96, 96), qkv_bias=True" in code and "columns=128" in code
    small = "img_size=32, feature_size=4, hidden_size=24, mlp_dim=48, num_heads=4"
    code = code.replace("img_size=(96, 96, 96)", small).replace("columns=128", "columns=8")
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert Path("site_a.safetensors").is_file()
    assert type(names["plain"]).__name__ == "UNETR" and names["plain"] is not names["network"]


def test_method_in_contributing_runs(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(code.splitlines()) <= 25
    (tmp_path / "last_blocks.py").write_text(code)
    spec = importlib.util.spec_from_file_location("last_blocks", tmp_path / "last_blocks.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["last_blocks"] = module
    spec.loader.exec_module(module)
    net = adapt(ViT(1, 32, 16, 24, 48, 2, 4), module.LastBlocks())
    file = save_adapter(net, tmp_path / "last.safetensors")
    learned = [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    assert len(learned) == 11 and all(name.startswith("blocks.1.") and "cross" not in name for name in learned)
    fresh = ViT(1, 32, 16, 24, 48, 2, 4)
    fresh.load_state_dict(net.state_dict())
    load_adapter(fresh, file, methods=[module.LastBlocks])


def tiny_hippocampus(source: Path, folder: Path) -> None:
    """The smallest subset under the names of the whole set, with its domain-shift list."""
    shutil.copytree(source, folder)
    os.chmod(folder, 0o755)
    items = json.loads((folder / "dataset.json").read_text())
    labelled, held_out = items["training"], items["validation"]
    shift = {
        "labels": items["labels"],
        "source": {"training": labelled[:4], "validation": held_out[:1], "test": held_out[1:]},
        "target": {"training_unlabelled_or_fewshot": labelled[4:], "test": held_out[:1]},
    }
    (folder / "dataset_domainshift.json").write_text(json.dumps(shift))


def short(command: str) -> str:
    """One epoch, a network of a few thousand parameters, all else as shown."""
    command = re.sub(r"--(max_epochs|val_interval) \d+", r"--\1 1", command)
    for name, value in SMALL.items():
        command = re.sub(rf"^{name}: \d+$", value, command, flags=re.MULTILINE)
    command = re.sub(r"^num_layers: \d+$", "num_layers: 2", command, flags=re.MULTILINE)
    return re.sub(r"--(samples_per_epoch|limit) \d\d+", r"--\1 8", command)


def run_short(script: str, data: Path, folder: Path) -> None:
    environment = os.environ | {
        "DATA": str(data),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(
        ["bash", "-exc", script], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, f"exit {done.returncode} after\n{done.stdout.decode(errors='replace')[-3000:]}"


@pytest.mark.slow
def test_hippocampus_commands_run_in_their_short_form(hippocampus_tiny, tmp_path):
    tiny_hippocampus(hippocampus_tiny, tmp_path / "hippocampus")
    run_short("".join(short(block) for block in blocks("bash", "## A real job", "## TPP")), tmp_path, tmp_path)
    runs = tmp_path / "runs"
    assert (runs / "ssa" / "adapter.safetensors").is_file()
    for name in ("few_ssa", "standard"):
        assert "val_mean_dice" in " ".join(path.name for path in (runs / name / "test").iterdir())


@pytest.mark.slow
def test_xray_commands_run_in_their_short_form(data_dir, tmp_path):
    shown = "".join(short(block) for block in blocks("bash", "## TPP", "## What it costs"))
    run_short("monai-essa bundles copy essa_ssa .\n" + shown, data_dir, tmp_path)
    learned = load_file(tmp_path / "runs" / "xray_tpp" / "adapter.safetensors")
    assert learned and all(".lora_" in name for name in learned)
    for name in ("xray_class_tpp", "xray_class_lora"):
        assert (tmp_path / "runs" / name / "test" / "metrics.json").is_file()


def test_the_cost_command_runs_in_its_short_form(tmp_path):
    (shown,) = blocks("bash", "## What it costs", "## Install")
    run_short(shown.replace("vit_b --size 96", "vit_s --size 32"), tmp_path, tmp_path)
    assert (tmp_path / "cost" / "cost.json").is_file() and (tmp_path / "cost" / "cost.png").is_file()
