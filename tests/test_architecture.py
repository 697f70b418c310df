# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The house rules that a program can check: imports run one way, names are ours alone, every file says its licence."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "monai_essa"
MODULES = sorted(PACKAGE.rglob("*.py"))
HEADER = Path(__file__).read_text(encoding="utf-8").partition('"""')[0]
HIDING_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "wrapper"}
EXTRAS = ("peft", "matplotlib", "jinja2", "nilearn", "monailabel", "transformers", "onnx", "onnxscript", "mlflow")

ADAPTERS = {
    "network_parts",
    "blocks",
    "methods",
    "claims",
    "adaptation",
    "adapter_file",
    "adapter_base",
    "adapter_record",
    "adapter_tensors",
    "encoder_facts",
    "lean_marks",
    "network_snapshot",
    "parameter_summary",
}
BRICKS = ADAPTERS | {
    "losses",
    "networks",
    "pretext",
    "weights",
    "transforms",
    "data",
    "outside",
    "version",
    "bundle_folder",
    "error_line",
    "switch",
    "yaml_text",
    "files",
}
TOOLS = {"engines", "efficiency", "evaluation", "report"}
# What each part of monai_essa may import from monai_essa: a new part joins by one line.
MAY_IMPORT: dict[str, set[str]] = {
    "outside": set(),
    "version": set(),
    "bundle_folder": set(),
    "error_line": {"outside"},
    "switch": set(),
    "files": set(),
    "yaml_text": {"outside"},
    "network_parts": set(),
    "lean_marks": set(),
    "blocks": {"network_parts"},
    "methods": {"outside", "files", "network_parts", "blocks", "switch"},
    "claims": {"outside", "lean_marks", "network_parts", "methods"},
    "network_snapshot": set(),
    "adaptation": {"outside", "claims", "lean_marks", "methods", "network_parts", "network_snapshot"},
    "encoder_facts": {"network_parts", "networks", "methods"},
    "adapter_tensors": set(),
    "adapter_record": {"outside"},
    "adapter_base": {"outside", "network_parts", "methods", "adaptation", "adapter_tensors", "encoder_facts"},
    "adapter_file": {
        "files",
        *("outside", "version", "methods", "network_parts", "network_snapshot"),
        *("adaptation", "adapter_base", "adapter_record", "adapter_tensors"),
    },
    "parameter_summary": {"network_parts", "adaptation"},
    "losses": set(),
    "networks": {"outside", "network_parts"},
    "pretext": {"losses", "networks"},
    "weights": {"outside", "lean_marks", "network_parts", "networks"},
    "data": {"outside", "files", "switch"},
    "transforms": {"outside", "data"},
    "engines": BRICKS,
    "efficiency": BRICKS,
    "evaluation": BRICKS,
    "report": BRICKS,
    "demo": BRICKS | TOOLS,
    "cli": BRICKS | TOOLS | {"demo"},
    # It swaps adapters on a network that it keeps, asks for the next run folder and reads the grid of a label; all else
    # goes by the bundles.
    "label": {"outside", "adaptation", "adapter_file", "bundle_folder", "data", "engines", "error_line", "version"},
    "__init__": BRICKS | TOOLS,
}


def part_of_file(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> Iterator[tuple[int, str]]:
    """Line and part for each import from monai_essa, wherever in the file and in whichever form it stands."""
    package = ("monai_essa", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            relative_to = package[: len(package) - node.level + 1] if node.level else ()
            module = (*relative_to, *((node.module,) if node.module else ()))
            names = [".".join((*module, alias.name)) for alias in node.names]
        else:
            continue
        for name in names:
            root, _, rest = f"{name}.".partition(".")
            if root == "monai_essa":
                yield node.lineno, rest.partition(".")[0] or "__init__"


def defined_names(path: Path) -> set[str]:
    """Names of the classes, functions and aliases that a module defines at its top level."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    part = part_of_file(path)
    assert part in MAY_IMPORT, f"{part} is new: say in MAY_IMPORT what it may import"
    wrong = [f"line {line}: {name}" for line, name in imported_parts(path) if name not in MAY_IMPORT[part] | {part}]
    assert not wrong, f"{part} may import {sorted(MAY_IMPORT[part])} of monai_essa only"


def test_the_table_of_imports_has_no_cycle() -> None:
    remaining = dict(MAY_IMPORT)
    while remaining:
        lowest = {part for part, allowed in remaining.items() if not allowed & remaining.keys()}
        assert lowest, f"a cycle among {sorted(remaining)}"
        remaining = {part: allowed for part, allowed in remaining.items() if part not in lowest}


@pytest.mark.parametrize(
    ("statement", "part"),
    [
        ("import monai_essa.engines.steps", "engines"),
        ("from monai_essa.engines import TrainStep", "engines"),
        ("from monai_essa import engines", "engines"),
        ("from ..engines import TrainStep", "engines"),
        ("from .. import engines", "engines"),
        ("def later():\n    from monai_essa import engines", "engines"),
        ("import monai_essa", "__init__"),
        ("from . import mae", "pretext"),
    ],
)
def test_every_form_of_import_is_seen(
    statement: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    module = tmp_path / "pretext" / "probe.py"
    module.parent.mkdir()
    module.write_text(statement, encoding="utf-8")
    assert [name for _, name in imported_parts(module)] == [part]


def test_no_file_name_hides_its_content() -> None:
    files = [path.relative_to(ROOT) for path in (*MODULES, *ROOT.glob("tests/**/*.py"), *ROOT.glob("bundles/**/*.py"))]
    hiding = [str(path) for path in files if HIDING_NAMES & {Path(part).stem for part in path.parts}]
    assert not hiding


def test_every_python_file_starts_with_the_licence() -> None:
    folders = ("monai_essa", "bundles", "tests", "tutorials")
    files = [path for folder in folders for path in (ROOT / folder).glob("**/*.py") if path.stat().st_size]
    assert len(files) > len(MODULES) // 2
    without = [path for path in files if not path.read_text(encoding="utf-8").startswith(HEADER)]
    assert not [str(path.relative_to(ROOT)) for path in without]


def test_no_public_name_is_a_monai_name() -> None:
    """Two classes of one name would make MONAI's ComponentLocator guess for every user who imports monai_essa."""
    spec = importlib.util.find_spec("monai")
    assert spec is not None and spec.origin is not None
    theirs: set[str] = set().union(*(defined_names(path) for path in Path(spec.origin).parent.rglob("*.py")))
    assert {"ViT", "SwinUNETR", "SpacingD", "copy_model_state"} <= theirs

    ours = {name: path for path in MODULES for name in defined_names(path) if not name.startswith("_")}
    assert not {name: str(path.relative_to(ROOT)) for name, path in ours.items() if name in theirs}


def test_importing_the_package_needs_no_extra() -> None:
    blocked = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS!r})); import monai_essa"
    done = subprocess.run([sys.executable, "-c", blocked], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_no_extra_that_monai_does_not() -> None:
    script = "import sys, monai; before = set(sys.modules); import monai_essa; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    assert not set(EXTRAS) & set(done.stdout.split())
