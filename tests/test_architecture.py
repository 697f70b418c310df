# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The house rules that a program can check: imports run one way, names are ours alone, every file says its licence."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "monai_essa"
MODULES = sorted(PACKAGE.rglob("*.py"))
HEADER = Path(__file__).read_text(encoding="utf-8").partition('"""')[0]
HIDING_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "wrapper"}
EXTRAS = (
    "peft",
    "timm",
    "matplotlib",
    "jinja2",
    "nilearn",
    "monailabel",
    "transformers",
    "onnx",
    "onnxscript",
    "mlflow",
    "nvflare",
)

FLOOR = {"outside", "files", "error_line", "licence", "devices"}
NETWORKS = FLOOR | {"distributed", "anatomy", "methods", "adapters", "weights", "pretext"}
STAGES = NETWORKS | {"data", "efficiency", "cost", "engines", "__init__"}
ANSWERS = STAGES | {"evaluation", "report", "bundling", "planning"}
# What each room of monai_essa may import from the others: a new room joins by one line. `__init__` gives the version.
MAY_IMPORT: dict[str, set[str]] = {
    "outside": set(),
    "files": set(),
    "error_line": {"outside"},
    "devices": set(),
    "licence": {"outside"},
    "torchvision_operators": set(),
    "distributed": FLOOR | {"__init__"},
    "anatomy": FLOOR,
    "methods": FLOOR | {"anatomy"},
    "adapters": FLOOR | {"anatomy", "methods", "__init__"},
    "weights": FLOOR | {"anatomy"},
    "pretext": FLOOR | {"distributed", "anatomy", "adapters"},  # Gram anchoring compares with the base under an adapter
    "data": FLOOR | {"distributed"},
    "efficiency": NETWORKS,
    "cost": NETWORKS | {"efficiency", "engines"},  # a handler of the engine writes what a step costs
    "engines": NETWORKS | {"data", "__init__"},
    "evaluation": STAGES,
    "report": STAGES | {"evaluation", "bundling", "planning"},
    "bundling": STAGES,
    "planning": STAGES | {"bundling"},
    "study": ANSWERS,
    "demo": ANSWERS | {"study"},
    "federated": FLOOR | {"adapters", "engines", "bundling"},
    # It swaps adapters on a network that it keeps, asks for the next run folder and reads the grid of a label; all else
    # goes by the bundles.
    "label": FLOOR | {"torchvision_operators", "adapters", "bundling", "data", "engines", "__init__"},
    "cli": ANSWERS | {"study", "demo", "federated"},
    "__main__": {"cli"},
    "__init__": NETWORKS | {"efficiency"},
}
# Files that may be shorter than a topic: the entry of `python -m`, and a file that label.md copies.
SHORT = {"__main__.py", "torchvision_operators.py"}


# Attribute and tensor names of MONAI's network classes, which only anatomy/ may spell out in texts.
NETWORK_NAMES = re.compile(
    r"swinViT|\bvit\\?\.(?!pt\b)|patch_embed\w*\\?\.|\battn\b|\bqkv\b|linear[12]|convInit|conv_init|down_layers|up_layers"
    r"|cls_token|position_emb|pos_embed|relative_position|cross_attn|conv_final|encoder1|decoder[1-5]|norm1|out_proj"
)
# Modules that copy or extend classes of MONAI, or build their networks, and import these classes by name.
USES_MONAI_CLASSES = {
    "efficiency": "copies the forward passes of exact classes",
    "cost/table.py": "builds the networks of the table and the stock recipe that costs are compared with",
    "methods/vpt.py": "extends the transformer block",
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
                part = rest.partition(".")[0]
                yield node.lineno, "__init__" if part in ("", "__version__") else part


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
    remaining = {part: allowed - {"__init__"} for part, allowed in MAY_IMPORT.items()}
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


def test_a_file_is_a_topic_and_a_room_has_at_most_ten_of_them() -> None:
    topics = [path.relative_to(PACKAGE) for path in MODULES if path.name != "__init__.py"]
    short = [path for path in topics if len((PACKAGE / path).read_text(encoding="utf-8").splitlines()) < 60]
    assert not [path for path in short if str(path) not in SHORT]
    rooms = Counter(str(path.parent) for path in topics)
    assert not {room: files for room, files in rooms.items() if files > 10}


def texts(path: Path) -> Iterator[str]:
    """Each string literal of a module but for its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            yield node.value


def test_only_anatomy_spells_out_names_inside_of_networks() -> None:
    found = {path: [text for text in texts(path) if NETWORK_NAMES.search(text)] for path in MODULES}
    assert sum(map(len, found.values())) > 30, "the pattern finds nothing, so the test holds nothing"
    outside = {str(path.relative_to(ROOT)): names for path, names in found.items() if part_of_file(path) != "anatomy"}
    assert not {path: names for path, names in outside.items() if names}, "move these names into a table of anatomy/"


def test_only_anatomy_imports_network_classes() -> None:
    importing = {
        str(path.relative_to(PACKAGE))
        for path in MODULES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom) and re.match(r"monai\.networks\.(nets|blocks)", node.module or "")
        if any(alias.name[0].isupper() for alias in node.names)
    }
    rooms = ("anatomy", "efficiency")
    named = {path.partition("/")[0] if path.startswith(rooms) else path for path in importing}
    assert named - {"anatomy"} == USES_MONAI_CLASSES.keys()


def test_one_file_asks_for_the_gpu_by_name() -> None:
    """MONAI Label has names of devices of its own, which its requests and its base classes use."""
    naming = {
        path.relative_to(PACKAGE)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"cuda(:\d+)?", node.value))
        or (isinstance(node, ast.Attribute) and node.attr in ("cuda", "is_cuda"))
    }
    assert {path for path in naming if path.parts[0] != "label"} == {Path("devices.py")}


def test_the_tests_stand_in_the_rooms_of_what_they_test() -> None:
    rooms = {path.parent.relative_to(PACKAGE) for path in MODULES}
    beside = {Path(name) for name in ("bases", "benchmarks", "bundles", "docs", "fuzz", "tutorials")}
    assert {path.parent.relative_to(ROOT / "tests") for path in ROOT.glob("tests/**/test_*.py")} <= rooms | beside


def test_no_file_name_hides_its_content() -> None:
    files = [path.relative_to(ROOT) for path in (*MODULES, *ROOT.glob("tests/**/*.py"), *ROOT.glob("bundles/**/*.py"))]
    hiding = [str(path) for path in files if HIDING_NAMES & {Path(part).stem for part in path.parts}]
    assert not hiding


def test_every_python_file_starts_with_the_licence() -> None:
    folders = ("monai_essa", "benchmarks", "bundles", "tests", "tutorials")
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
