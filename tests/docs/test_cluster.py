# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The scripts for SLURM: bash reads them, their options are SLURM's and torchrun's, what they name is there."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from torch.distributed.run import get_args_parser

from tests.docs.shown_commands import ROOT
from tests.docs.test_parsed_commands import misfits

PAGE = (ROOT / "docs/how-to/cluster.md").read_text(encoding="utf-8")
SCRIPTS = dict(re.findall(r'^```bash title="(\S+\.sbatch)"\n(.*?)^```$', PAGE, re.DOTALL | re.MULTILINE))
OPTIONS = {"job-name", "nodes", "ntasks-per-node", "gpus-per-node", "gpus", "cpus-per-task", "mem", "time", "signal"}
OPTIONS |= {"requeue", "open-mode", "output", "array"}


def command(script: str) -> list[str]:
    """The words of the training that a script starts, shell variables as they stand."""
    joined = script.replace("\\\n", " ")
    line = next(line for line in joined.splitlines() if "-m monai.bundle run" in line)
    return [re.sub(r"\"", "", word) for word in re.findall(r'"[^"]*"|\S+', line) if word != "&"]


def test_the_page_has_a_script_for_one_node_several_and_an_array() -> None:
    assert sorted(SCRIPTS) == ["folds_and_arms.sbatch", "one_node.sbatch", "several_nodes.sbatch"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("name", SCRIPTS)
def test_bash_reads_a_script(name: str) -> None:
    done = subprocess.run(["bash", "-n"], input=SCRIPTS[name], capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_options_of_a_script_are_those_of_sbatch(name: str) -> None:
    lines = SCRIPTS[name].splitlines()
    assert lines[0] == "#!/bin/bash"
    given = [re.fullmatch(r"#SBATCH --([a-z-]+)(=\S+)?", line) for line in lines if line.startswith("#SBATCH")]
    assert all(given) and {option[1] for option in given if option} <= OPTIONS
    assert {"signal", "requeue", "time"} <= {option[1] for option in given if option}
    assert "exit 0' TERM" in SCRIPTS[name] and SCRIPTS[name].rstrip().endswith('wait "$run"')


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_starts_a_run_of_configs_and_keys_that_are_there(name: str) -> None:
    words = [word.replace("$arm", "lora") for word in command(SCRIPTS[name])]
    start = words.index("-m") - 1
    assert misfits(["python", *words[start + 1 :]], {}) == []
    if "torchrun" in words:
        parsed = get_args_parser().parse_args(words[words.index("torchrun") + 1 :])
        assert parsed.module and parsed.training_script == "monai.bundle" and parsed.max_restarts == 3


def test_an_array_has_a_job_for_each_fold_of_each_arm() -> None:
    script = SCRIPTS["folds_and_arms.sbatch"]
    arms = re.search(r"^arms=\((.*)\)$", script, re.MULTILINE)
    assert arms is not None
    configs = ROOT / "bundles" / "essa_segmentation" / "configs"
    assert all((configs / f"method_{arm}.yaml").is_file() for arm in arms[1].split())
    assert f"--array=0-{5 * len(arms[1].split()) - 1}%" in script
