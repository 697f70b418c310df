# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What the README shows runs: its Python example, and its commands in their short form on the smallest real data."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import torch
from monai.networks.nets import ViT

from monai_essa import adapt, load_adapter, save_adapter
from tests.docs.shown_commands import blocks

ROOT = Path(__file__).resolve().parents[1]


def test_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(ViT(1, 32, 16, 24, 48, 12, 4, qkv_bias=True).state_dict(), "vit_b.pt")
    (code,) = blocks("README.md", "python")
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
