# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The program: help at once, one line for an error, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from monai_essa import __version__
from monai_essa.cli import main

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    ("data", "datalist"),
    ("data", "check"),
    ("bundles", "list"),
    ("bundles", "copy"),
    ("adapter", "info"),
    ("adapter", "merge"),
    ("adapter", "diff"),
    ("predict",),
    ("run",),
    ("demo",),
    ("compare",),
]
# nibabel itself imports scipy, but none of its parts.
TRAINING = {"monai", "torch", "ignite", "pandas", "matplotlib", "IPython", "tqdm.notebook", "scipy.ndimage"}
FILES = {"numpy", "nibabel", "SimpleITK", "PIL", "scipy", "tqdm", "ruamel.yaml", "safetensors"}
RUN_AND_LIST_MODULES = """
import sys
from monai_essa.cli import main
try:
    code = main()
except SystemExit as stop:
    code = stop.code
print("modules:", *sys.modules, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("command", [(), ("data",), ("bundles",), ("adapter",), *COMMANDS], ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: {' '.join(('monai-essa', *command))} ")
    if command in COMMANDS:
        assert f"example:\n  monai-essa {' '.join(command)}" in text


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_options_of_an_example_are_among_those_described(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    described, _, example = capsys.readouterr().out.partition("example:\n")
    passed_on = {"--args_file", "--config_file", "--dataset_dir", "--pretrained"} if command == ("run",) else set()
    options = {word for word in example.split() if word.startswith("--")} - passed_on
    assert {option for option in options if option not in described} == set()


@dataclass(frozen=True)
class Fresh:
    """What a command gave in an interpreter of its own, and the modules that it had imported at the end."""

    code: int
    out: str
    err: str
    modules: set[str]


def in_fresh_interpreter(*arguments: object) -> Fresh:
    command = [sys.executable, "-c", RUN_AND_LIST_MODULES, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    err, _, modules = done.stderr.rpartition("modules: ")
    return Fresh(done.returncode, done.stdout, err, set(modules.split()))


def every_format(volumes: Path, folder: Path) -> Path:
    """A datalist with a labelled NIfTI, an NRRD and a MetaImage, one DICOM slice, a picture and an NPZ file."""
    rng = np.random.default_rng(0)
    for name in ("nrrd.nrrd", "meta.mha"):
        sitk.WriteImage(sitk.GetImageFromArray(rng.integers(0, 900, (8, 8, 8), dtype=np.int16)), folder / name)
    (folder / "dicom").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(rng.integers(0, 900, (1, 8, 8), dtype=np.int16)), folder / "dicom" / "1.dcm")
    Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / "picture.png")
    np.savez(folder / "stack.npz", train_images=rng.integers(0, 255, (1, 8, 8), dtype=np.uint8))
    images = ["nrrd.nrrd", "meta.mha", "dicom", "picture.png", "stack.npz#train_images#0"]
    labelled = {"image": str(volumes / "case0.nii.gz"), "label": str(volumes / "case0_seg.nii.gz")}
    sections = {"training": [labelled], "unlabeled": [{"image": name} for name in images]}
    (folder / "formats.json").write_text(json.dumps(sections), encoding="utf-8")
    return folder / "formats.json"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], "from your scans to a model:"),
        (["--version"], __version__),
        (["data", "check", "--help"], "Read every file of a datalist once"),
        (["bundles", "list"], "essa_segmentation"),
        (["adapter", "info", "ADAPTER"], "APLA(columns=None, seed=0)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_reads_no_image_imports_no_library_for_files(arguments: list[str], expected: str, files) -> None:
    done = in_fresh_interpreter(*(files.adapters[0] if word == "ADAPTER" else word for word in arguments))
    assert (done.code, done.err) == (0, "")
    assert expected in done.out
    assert "monai_essa.cli" in done.modules
    assert done.modules & (TRAINING | FILES) == set()


def test_a_datalist_is_made_without_what_training_needs(volumes: Path, tmp_path: Path) -> None:
    done = in_fresh_interpreter("data", "datalist", volumes, "--out", tmp_path / "dataset.json")
    assert done.code == 0, done.err
    assert f"wrote {tmp_path / 'dataset.json'}" in done.out
    assert "monai_essa.data.lists.maker" in done.modules
    assert done.modules & TRAINING == set()


def test_every_image_format_is_checked_without_what_training_needs(volumes: Path, tmp_path: Path) -> None:
    done = in_fresh_interpreter("data", "check", every_format(volumes, tmp_path))
    assert done.code == 0, f"{done.out}{done.err}"
    assert "0 errors" in done.out
    assert {
        "monai_essa.data.readers.itk",
        "monai_essa.data.readers.volume_file",
        "monai_essa.data.readers.npz",
    } <= done.modules
    assert done.modules & TRAINING == set()


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"monai-essa {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["data"],
        ["nonsense"],
        ["data", "check"],
        ["data", "check", "a.json", "--nonsense"],
        ["bundles", "list", "x"],
    ],
    ids=" ".join,
)
def test_wrong_arguments_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: monai-essa" in capsys.readouterr().err


def test_an_error_is_one_line_and_exits_with_1(monai_essa, tmp_path: Path) -> None:
    given = monai_essa("data", "check", tmp_path / "none.json")
    assert given.code == 1
    assert given.err.splitlines() == [
        f"monai-essa: {tmp_path / 'none.json'}: no such datalist; `monai-essa data datalist DIR` makes one"
    ]


@pytest.mark.parametrize("before", [True, False])
def test_a_traceback_is_given_where_it_is_asked_for(before: bool, monai_essa, tmp_path: Path) -> None:
    arguments = ["data", "check", tmp_path / "none.json"]
    with pytest.raises(FileNotFoundError, match="no such datalist"):
        monai_essa(*(["--traceback", *arguments] if before else [*arguments, "--traceback"]))


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_essa.cli.bundle_commands.list_bundles", lambda: 1 + "1")
    with pytest.raises(TypeError):
        main(["bundles", "list"])


def test_an_interrupt_exits_quietly_with_130(monai_essa, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("monai_essa.cli.bundle_commands.list_bundles", interrupted)
    given = monai_essa("bundles", "list")
    assert (given.code, given.err) == (130, "monai-essa: interrupted\n")


def test_a_broken_config_is_one_line_with_its_place(monai_essa, tmp_path: Path) -> None:
    config = tmp_path / "broken.yaml"
    config.write_text("{a: 1}\nb: 2\n", encoding="utf-8")
    given = monai_essa("run", "--dry-run", "--config_file", config)
    assert given.code == 1
    assert len(given.err.splitlines()) == 1
    assert "broken.yaml" in given.err and "line 2" in given.err
