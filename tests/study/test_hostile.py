# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A study on a full disk, on one that is read-only, and with a scan that breaks: a line each, and then it goes on."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from monai_essa.study.run import run_study
from tests.study.tiny import killed_at, run_apart, tiny_request


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system that is mounted to be read."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def last_line(capfd: pytest.CaptureFixture[str]) -> str:
    return capfd.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", ["study", ""])
def test_an_out_that_is_read_only_is_refused_before_anything_is_read(name: str, read_only: Path) -> None:
    folder = read_only / name
    with pytest.raises(PermissionError, match=f"^{folder} cannot be written to .Read-only file system.; give another"):
        run_study(tiny_request(Path("nowhere")), folder)


@pytest.mark.full  # a study
def test_a_full_disk_stops_it_in_a_line_and_it_goes_on_when_there_is_room(
    hippocampus_tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, request = tmp_path / "study", tiny_request(hippocampus_tiny, ("no_ssa",))
    for most in (2_000, 30_000, 300_000):  # bytes of a file: of the data list, of a checkpoint, of a model
        assert run_apart(request, folder, largest_file=most) == 1
        line = last_line(capfd)
        assert line.startswith(f"{folder}: ") and line.endswith("it goes on where this one stopped")
        assert not list(folder.glob("stages/*.failed"))
    assert run_apart(request, folder) == 0
    assert [arm["n"] for arm in json.loads((folder / "verdict.json").read_text(encoding="utf-8"))["arms"]] == [3, 3, 3]


@pytest.mark.full  # a study
def test_a_scan_that_breaks_after_the_plan_is_named_and_tried_again_when_it_is_mended(
    hippocampus_tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scans = Path(shutil.copytree(hippocampus_tiny, tmp_path / "scans"))
    folder, request = tmp_path / "study", tiny_request(scans, ("no_ssa",))
    killed_at(request, folder, (folder / "verdict.json").is_file)
    tested = json.loads((folder / "datalist.json").read_text(encoding="utf-8"))["repeat_1"]["fold_1"]["test"]
    scan = Path(tested[0]["image"])
    whole = scan.read_bytes()
    scan.write_bytes(whole[: len(whole) // 2])

    assert run_apart(request, folder) == 1
    said = capfd.readouterr().out
    assert f"no-ssa-test failed: {scan}: " in said and "There is no verdict, since no arm was tested" in said
    assert "mend the cause, delete its" in said and (folder / "report.html").is_file()

    scan.write_bytes(whole)
    for marker in folder.glob("stages/*.failed"):
        marker.unlink()
    assert run_apart(request, folder) == 0
    assert json.loads((folder / "verdict.json").read_text(encoding="utf-8"))["exported"]["name"] == "no_ssa"
