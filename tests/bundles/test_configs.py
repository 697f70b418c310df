# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Every config with every overlay: read strictly, each component found and bound, each reference there."""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from monai.bundle import ConfigComponent, ConfigExpression, ConfigParser, ReferenceResolver
from monai.bundle.config_item import ComponentLocator
from monai.utils import optional_import

from monai_essa.weights import FirstLayer
from tests.bundles.all_pairs import all_pairs

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
NAMES = ("essa_ssa", "essa_tpp", "essa_segmentation", "essa_classification")
SUPERVISED = ("essa_segmentation", "essa_classification")
# What inference may import: what MONAI itself needs.
PUBLIC = {"monai", "torch", "numpy", "ignite", "pathlib", "collections"}
# What is done with a finished run: configs that come last.
FINALS = (("reconstruct.yaml",), ("evaluate.yaml",))
FINALS += (("reconstruct.yaml", "reconstruct_adapter.yaml"), ("evaluate.yaml", "evaluate_adapter.yaml"))
FINALS += (("evaluate.yaml", "floor_atlas.yaml"), ("evaluate.yaml", "floor_voxels.yaml"))
FINALS += (("evaluate.yaml", "floor_features.yaml"), ("evaluate.yaml", "floor_voxels.yaml", "floor_features.yaml"))
# For 2-D images alone, and bound only where timm is: make test-bases runs them.
TIMM = "_timm.yaml"
FILES = sorted(BUNDLES.glob("*/configs/*.yaml"))


class StrictLoader(yaml.SafeLoader):
    """Refuses what YAML lets pass: a key that is there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key twice in {keys}, {node.start_mark}"
        return super().construct_mapping(node, deep)


def overlays(bundle: str, kind: str) -> list[str]:
    names = (path.name for path in (BUNDLES / bundle / "configs").glob(f"{kind}_*.yaml"))
    return sorted(name for name in names if not name.endswith(TIMM))


def combinations() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each base config alone; overlays that a run combines, every two of them in some row; the others one by one."""
    for bundle in NAMES:
        kinds = [list(zip(overlays(bundle, kind))) for kind in ("network", "method", "objective", "start", "images")]
        there = [files for files in FINALS if all((BUNDLES / bundle / "configs" / name).exists() for name in files)]
        rows = [(), *(tuple(chain(*row)) for row in all_pairs([kind for kind in (*kinds, [(), *there]) if kind]))]
        yield from ((bundle, ("train.yaml", *row)) for row in rows)
        own = [
            name
            for kind in ("intensity", "loss", "weights", "augment", "fit", "last", "tracking", "multi", "federated")
            for name in overlays(bundle, kind)
        ]
        yield from ((bundle, ("train.yaml", name)) for name in own)
        if bundle in SUPERVISED:
            yield bundle, ("train.yaml", "multi_gpu_train.yaml", "evaluate.yaml")
        public = [name for name in overlays(bundle, "intensity") if name != "intensity_mr.yaml"]
        public += [*(overlays(bundle, "inference") or overlays(bundle, "network")), *overlays(bundle, "images")]
        public += overlays(bundle, "fit")
        yield from ((bundle, ("inference.yaml", *files)) for files in [(), *zip(public)])
        if (BUNDLES / bundle / "configs" / f"network{TIMM}").exists():
            for base, kind in (("train.yaml", "network"), ("inference.yaml", "inference")):
                yield bundle, (base, "images_2d.yaml", f"{kind}{TIMM}")


COMBINATIONS = list(combinations())
IDS = [" + ".join([bundle, *(name.removesuffix(".yaml") for name in files)]) for bundle, files in COMBINATIONS]


def parsed(bundle: str, files: tuple[str, ...]) -> ConfigParser:
    if any(name.endswith(TIMM) for name in files):
        pytest.importorskip(
            "timm", reason="timm is not installed; make test-bases runs its overlays", exc_type=ImportError
        )
    parser = ConfigParser()
    parser.read_config([str(BUNDLES / bundle / "configs" / name) for name in files])
    parser.read_meta(str(BUNDLES / bundle / "configs" / "metadata.json"))
    parser.parse()
    return parser


def read(bundle: str, name: str) -> Any:
    return yaml.safe_load((BUNDLES / bundle / "configs" / name).read_text(encoding="utf-8"))


def strings(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield config
    if isinstance(config, (dict, list)):
        yield from chain.from_iterable(map(strings, config.values() if isinstance(config, dict) else config))


@cache
def locator() -> ComponentLocator:
    return ComponentLocator(excludes=["monai_essa"])


@cache
def target_of(name: str) -> Any:
    """The class or function of a component: by MONAI's short name, which must be unique, or by its full path."""
    found = locator().get_component_module_name(name)
    assert not isinstance(found, list), f"{name} is ambiguous: {found}"
    module, _, attribute = (f"{found}.{name}" if found else name).rpartition(".")
    target, there = optional_import(module, name=attribute)
    assert there, f"there is no {name}"
    return target


def imported(parser: ConfigParser) -> dict[str, Any]:
    """What the imports of a config bring, by name."""
    names: dict[str, Any] = {}
    for statement in parser["imports"]:
        exec(statement.removeprefix("$"), names)
    return names


def check_expression(text: str, names: dict[str, Any]) -> None:
    """Each name of an expression is imported or its own, each attribute of a module is there, each call binds."""
    for reference in sorted(ReferenceResolver.match_refs_pattern(text), key=len, reverse=True):
        text = text.replace(f"@{reference}", "None")
    tree = ast.parse(text.removeprefix("$"), mode="eval")
    nodes = list(ast.walk(tree))
    own = {node.arg for node in nodes if isinstance(node, ast.arg)}
    own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    used = {node.id for node in nodes if isinstance(node, ast.Name)} - own
    known = names | vars(sys.modules["builtins"])
    assert used <= known.keys(), f"{text} uses {used - known.keys()}, which no import names"
    for node in nodes:
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and inspect.ismodule(names.get(node.value.id))
        ):
            target = getattr(names[node.value.id], node.attr)
            for call in (call for call in nodes if isinstance(call, ast.Call) and call.func is node):
                if target.__module__.startswith("monai_essa"):
                    inspect.signature(target).bind(*call.args, **{str(word.arg): None for word in call.keywords})


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parts[-3]}/{path.name}")
def test_a_file_has_no_key_twice_and_no_number_as_text(path: Path) -> None:
    config = yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader)  # noqa: S506
    for text in strings(config):
        with pytest.raises(ValueError, match="could not convert"):
            float(text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parts[-3]}/{path.name}")
def test_nothing_is_copied_by_a_macro(path: Path) -> None:
    """`%network` would build a second network."""
    assert not [text for text in strings(yaml.safe_load(path.read_text(encoding="utf-8"))) if text.startswith("%")]


@pytest.mark.parametrize(("bundle", "files"), COMBINATIONS, ids=IDS)
def test_every_component_binds_and_every_reference_is_there(bundle: str, files: tuple[str, ...]) -> None:
    parser = parsed(bundle, files)
    items = parser.ref_resolver.items
    names = imported(parser)
    for name, item in items.items():
        if isinstance(item, ConfigComponent):
            signature = inspect.signature(target_of(item.get_config()["_target_"]))
            called_later = item.get_config().get("_mode_") == "callable"
            (signature.bind_partial if called_later else signature.bind)(**item.resolve_args())
        if isinstance(item, ConfigExpression) and not ConfigExpression.is_import_statement(item.get_config()):
            check_expression(item.get_config(), names)
        missing = set(ReferenceResolver.find_refs_in_config(item.get_config(), name)) - items.keys()
        assert not missing, f"{name} refers to {missing}, which no config defines"


INFERENCE = [(bundle, files) for bundle, files in COMBINATIONS if files[0] == "inference.yaml"]


@pytest.mark.parametrize(("bundle", "files"), INFERENCE, ids=lambda value: value if isinstance(value, str) else None)
def test_inference_names_monai_components_only(bundle: str, files: tuple[str, ...]) -> None:
    parser = parsed(bundle, files)
    components = [item for item in parser.ref_resolver.items.values() if isinstance(item, ConfigComponent)]
    modules = {target_of(item.get_config()["_target_"]).__module__.partition(".")[0] for item in components}
    modules |= {statement.split()[1].partition(".")[0] for statement in parser["imports"]}
    assert modules <= (PUBLIC | {"timm"} if files[-1].endswith(TIMM) else PUBLIC)
    assert not [text for name in files for text in strings(read(bundle, name)) if "monai_essa" in text]


@pytest.mark.parametrize("bundle", NAMES)
def test_a_distributed_run_changes_the_entries_that_it_means(bundle: str) -> None:
    """They are named by their places in lists."""
    plain, parallel = parsed(bundle, ("train.yaml",)), parsed(bundle, ("train.yaml", "multi_gpu_train.yaml"))
    assert parallel["train#handlers#6"] == plain["train#handlers#6"] | {
        "_disabled_": "$torch.distributed.get_rank() > 0"
    }
    assert plain["train#handlers#6#_target_"] == "TensorBoardStatsHandler"
    assert plain["record#config#steps#1"] == "@batch_size"
    assert plain["initialize#0#_target_"].endswith("show_cause_last")  # join_processes does that too


def test_every_overlay_is_among_the_combinations() -> None:
    combined = {(bundle, name) for bundle, files in COMBINATIONS for name in files}
    assert {(path.parts[-3], path.name) for path in FILES} == combined


@pytest.mark.parametrize("name", overlays("essa_ssa", "intensity"))
def test_both_bundles_scale_intensities_alike(name: str) -> None:
    """An encoder meets in segmentation what it was adapted to."""
    texts = {(BUNDLES / bundle / "configs" / name).read_text(encoding="utf-8") for bundle in NAMES}
    assert len(texts) == 1


@pytest.mark.parametrize("bundle", NAMES)
def test_the_ids_that_the_model_zoo_asks_for_are_there(bundle: str) -> None:
    train, inference = parsed(bundle, ("train.yaml",)), parsed(bundle, ("inference.yaml",))
    wanted = ["bundle_root", "device", "dataset_dir", "output_dir", "val_interval", "network_def"]
    wanted += [f"train#{name}" for name in ("trainer", "trainer#max_epochs", "dataset", "dataset#data", "handlers")]
    wanted += [f"validate#{name}" for name in ("evaluator", "handlers", "dataset", "dataset#data")]
    assert not [name for name in wanted if name not in train]
    wanted = ["bundle_root", "device", "dataset_dir", "output_dir", "network_def", "inferer", "dataset", "evaluator"]
    assert not [name for name in wanted if name not in inference]


@pytest.mark.parametrize("bundle", NAMES)
def test_a_bundle_has_the_files_of_the_model_zoo(bundle: str) -> None:
    for name in ("LICENSE", "configs/metadata.json", "configs/logging.conf", "docs/README.md", "docs/data_license.txt"):
        assert (BUNDLES / bundle / name).stat().st_size > 0
    metadata = json.loads((BUNDLES / bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["version"] in metadata["changelog"]


@pytest.mark.parametrize(
    ("bundle", "network"),
    [("essa_segmentation", "adapted"), ("essa_classification", "adapted"), ("essa_ssa", "network")],
)
def test_an_overlay_chooses_how_the_first_layer_is_fitted(bundle: str, network: str, tmp_path: Path) -> None:
    overlay = tmp_path / "first_layer.yaml"
    overlay.write_text(f"{network}#first_layer: {{_target_: monai_essa.weights.FirstLayer, channels: sum}}", "utf-8")
    parser = parsed(bundle, ("train.yaml", str(overlay)))
    assert parser.get_parsed_content(f"{network}#first_layer") == FirstLayer(channels="sum")
    config = parser.get(network)
    inspect.signature(target_of(config["_target_"])).bind(**{k: v for k, v in config.items() if k != "_target_"})
