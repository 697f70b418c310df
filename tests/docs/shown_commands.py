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

"""The blocks that a page shows, and how a test runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "hidden_size": "hidden_size: 24",
    "mlp_dim": "mlp_dim: 48",
    "num_heads": "num_heads: 4",
    "feature_size": "feature_size: 4",
}


def blocks(page: str, language: str, after: str = "# ", before: str | None = None) -> list[str]:
    """The blocks of a page between two headings."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = text[text.index(after) : None if before is None else text.index(before)]
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


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
