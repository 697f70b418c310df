# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The bundles and the typing marker reach every kind of installation, and the lists of setup.cfg hold together."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from monai_essa import __version__

ROOT = Path(__file__).resolve().parents[1]
PROBE = ("configs/metadata.json", "configs/method/apla.yaml", "configs/logging.conf", "docs/README.md", "LICENSE")
SHIPPED = {".json", ".yaml", ".conf", ".md", ".png", ".txt", ""}
PIP_INSTALL = (sys.executable, "-m", "pip", "--python")
QUICK = ("--quiet", "--no-deps", "--no-build-isolation", "--ignore-installed", "--no-index")
FIND = """
import json
from monai_essa.bundling.folder import bundle_folder, list_bundles
print(json.dumps({name: str(bundle_folder(name)) for name in list_bundles()}))
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the build reads, with one more bundle that has a file of each shipped kind, nested too."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder)
    for name in ("monai_essa", "bundles"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (*PROBE, "models/model.pt"):
        (folder / "bundles" / "probe" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "bundles" / "probe" / name).write_text("{}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = shutil.copytree(checkout, tmp_path_factory.mktemp("build") / "source")
    target = tmp_path_factory.mktemp("wheel")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target))
    run(sys.executable, "-m", "pip", "wheel", *options, str(source))
    (file,) = target.glob("*.whl")
    return file


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The interpreter of a fresh environment that also sees the packages of this one, after its own."""
    venv.create(tmp_path / "venv", with_pip=False)
    (site,) = (tmp_path / "venv").glob("**/site-packages")
    (site / "outer.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return next(path for path in (tmp_path / "venv").glob("*/python*") if path.stem == "python")


def run(*command: str, cwd: Path | None = None, **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=inherited | environment, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def bundles_found(python: Path, cwd: Path, **environment: str) -> dict[str, Path]:
    found = json.loads(run(str(python), "-c", FIND, cwd=cwd, **environment).splitlines()[-1])
    return {name: Path(folder) for name, folder in found.items()}


def assert_every_file_arrived(found: dict[str, Path], checkout: Path) -> None:
    files = [path.relative_to(checkout / "bundles") for path in (checkout / "bundles").glob("*/**/*")]
    files = [path for path in files if (checkout / "bundles" / path).is_file() and path.suffix in SHIPPED]
    assert set(found) == {path.parts[0] for path in files}
    for path in files:
        installed = found[path.parts[0]].parent / path
        assert installed.read_bytes() == (checkout / "bundles" / path).read_bytes()


@pytest.mark.slow  # builds a wheel
def test_a_wheel_holds_bundles_typing_marker_licence_and_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        (commands,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
        assert "License-Expression: Apache-2.0" in archive.read(metadata).decode()
        assert "monai-essa = monai_essa.cli:main" in archive.read(commands).decode()
    assert {"monai_essa/py.typed", *(f"monai_essa/bundles/probe/{name}" for name in PROBE)} <= set(names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"monai_essa"}
    assert not [name for name in names if name.endswith(".pt")]


@pytest.mark.slow  # installs that wheel in an environment of its own
def test_a_wheel_install_finds_its_bundles(wheel: Path, checkout: Path, python: Path, tmp_path: Path) -> None:
    run(*PIP_INSTALL, str(python), "install", *QUICK, str(wheel))
    found = bundles_found(python, tmp_path)
    assert_every_file_arrived(found, checkout)
    assert all(folder.is_relative_to(tmp_path / "venv") for folder in found.values())


@pytest.mark.slow  # one more environment and installation
def test_an_editable_install_finds_the_bundles_of_its_source(checkout: Path, python: Path, tmp_path: Path) -> None:
    source = shutil.copytree(checkout, tmp_path / "source")
    run(*PIP_INSTALL, str(python), "install", *QUICK, "--editable", str(source))
    found = bundles_found(python, tmp_path)
    assert_every_file_arrived(found, checkout)
    assert all(folder.parent == source / "bundles" for folder in found.values())


@pytest.mark.slow  # an environment of its own
def test_a_checkout_finds_its_own_bundles(checkout: Path, python: Path, tmp_path: Path) -> None:
    found = bundles_found(python, tmp_path, PYTHONPATH=str(checkout))
    assert_every_file_arrived(found, checkout)
    assert all(folder.parent == checkout / "bundles" for folder in found.values())


def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def requirements(text: str) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [Requirement(line) for line in lines if line]


def pins(file: str) -> dict[str, str]:
    """Version by name, of the lines ``name==version``."""
    pinned = {}
    for requirement in requirements((ROOT / file).read_text(encoding="utf-8")):
        match = re.fullmatch(r"==([^*,]+)", str(requirement.specifier))
        assert match, f"{file}: {requirement} is no pin"
        pinned[canonicalize_name(requirement.name)] = match[1]
    return pinned


def test_every_package_of_the_source_is_listed() -> None:
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "monai_essa").rglob("*.py")}
    listed = setup_cfg()["options"]["packages"].split()
    assert sorted(listed) == sorted([".".join(folder.parts) for folder in folders] + ["monai_essa.bundles"])


def test_the_citation_names_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__


def test_the_pins_of_ci_lie_in_the_ranges() -> None:
    config, pinned = setup_cfg(), pins("constraints.txt")
    for requirement in requirements(config["options"]["install_requires"]):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement
    for extra in ("report", "demo", "peft", "export", "docs", "tutorials", "dev"):
        for requirement in requirements(config["options.extras_require"][extra]):
            if requirement.name != "monai_essa":
                assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_the_lowest_pins_are_the_lower_bounds() -> None:
    ranges = requirements(setup_cfg()["options"]["install_requires"])
    lowest = {
        canonicalize_name(requirement.name): bound.version
        for requirement in ranges
        for bound in requirement.specifier
        if bound.operator == ">="
    }
    assert pins("constraints-lowest.txt") == lowest
    assert len(lowest) == len(ranges)
