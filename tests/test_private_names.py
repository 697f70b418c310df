# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Private names of torch, ignite and MONAI that monai_essa touches: no release has to keep them, so each is tested.

torch, modules and their state:

- ``torch.nn.Module._parameters``, ``torch.nn.Module._buffers`` and ``torch.nn.Module._modules``: layers are replaced,
  copied as fake tensors and compared without running what a subclass does in ``__setattr__``.
- ``torch.nn.Module._apply``: what lean stores in fewer bits follows ``network.double()``.
- ``torch.nn.Module._load_from_state_dict``: the rows of APLA are read from a plain ``weight``.
- ``torch.nn.Module._compiled_call_impl``: a network that was compiled before it was adapted is compiled again.
- ``torch.nn.Module.state_dict._metadata``: the grid of position embeddings travels in a state dict.
- ``torch.nn.modules.batchnorm._NormBase``, ``torch.nn.modules.instancenorm._InstanceNorm`` and
  ``torch.nn.modules.dropout._DropoutNd``: all norms, all instance norms, all kinds of dropout.
- ``torch.compile._orig_mod``: the network behind a compiled one.
- ``torch.distributed.fsdp._fsdp_wrapped_module`` and
  ``torch.distributed.algorithms._checkpoint._checkpoint_wrapped_module``: what wrappers put into names of tensors.

torch, counting of bytes and operations:

- ``torch._subclasses.fake_tensor.FakeTensorMode``: a step is measured on tensors without values.
- ``torch.utils._python_dispatch.TorchDispatchMode`` and ``torch.utils._python_dispatch._disable_current_modes``.
- ``torch.utils._pytree.tree_leaves`` and ``torch.utils._pytree.tree_map_only``.
- ``torch.ops.aten._scaled_dot_product_flash_attention_for_cpu`` with
  ``torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward``,
  ``torch.ops.aten._scaled_dot_product_flash_attention``, ``torch.ops.aten._scaled_dot_product_efficient_attention`` and
  ``torch.ops.aten._scaled_dot_product_cudnn_attention``: the kernels of attention, whose output is not recomputed.

ignite and MONAI:

- ``ignite.handlers.Checkpoint.state_dict._saved``: which best checkpoints there are, kept over a resume.
- ``monai.handlers.EarlyStopHandler._handler``: the ignite handler that counts, whose count a resumed run needs again.
- ``monai.handlers.CheckpointSaver._key_metric_checkpoint``: the ignite handler in which MONAI keeps them.
- ``monai.transforms.RandomizableTransform._do_transform``: whether a random transform acts this time.

Python's ``argparse._SubParsersAction`` is the type of a family of commands; ``os._exit``, which is documented, ends a
child whose parent is gone. The names of MONAI Label are tested where
it is installed, in tests/label. Which forward passes of MONAI lean training repeats stands in
monai_essa/efficiency/stock_forwards.py.
"""

from __future__ import annotations

import ast
import pkgutil
import re
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from ignite.handlers import Checkpoint
from monai.handlers import CheckpointSaver, EarlyStopHandler
from monai.transforms import RandShiftIntensity
from torch.distributed.algorithms._checkpoint import checkpoint_wrapper
from torch.distributed.fsdp import _common_utils as fsdp

PACKAGE = Path(__file__).resolve().parents[1] / "monai_essa"
NAMES = re.findall(r"``((?:torch|ignite|monai|argparse|os)\.[\w.]+)``", __doc__ or "")
PACKAGES = {"torch": "torch", "ignite": "pytorch-ignite", "monai": "monai"}


def best_checkpoint() -> Checkpoint:
    return CheckpointSaver("runs", {"net": nn.Linear(2, 2)}, save_key_metric=True)._key_metric_checkpoint


# What no path leads to: attributes of instances, entries of a state, parts of names.
PROBES: dict[str, Callable[[], bool]] = {
    "torch.nn.Module._parameters": lambda: set(nn.Linear(2, 2)._parameters) == {"weight", "bias"},
    "torch.nn.Module._buffers": lambda: "running_mean" in nn.BatchNorm2d(2)._buffers,
    "torch.nn.Module._modules": lambda: list(nn.Sequential(nn.Identity())._modules) == ["0"],
    "torch.nn.Module.state_dict._metadata": lambda: "version" in nn.Linear(2, 2).state_dict()._metadata[""],
    "torch.compile._orig_mod": lambda: list(torch.compile(nn.Linear(2, 2))._modules) == ["_orig_mod"],
    "torch.distributed.fsdp._fsdp_wrapped_module": lambda: fsdp.FSDP_WRAPPED_MODULE == "_fsdp_wrapped_module",
    "torch.distributed.algorithms._checkpoint._checkpoint_wrapped_module": lambda: (
        list(checkpoint_wrapper.CheckpointWrapper(nn.Linear(2, 2))._modules) == ["_checkpoint_wrapped_module"]
    ),
    "ignite.handlers.Checkpoint.state_dict._saved": lambda: list(best_checkpoint().state_dict()["_saved"]) == [],
    "monai.handlers.EarlyStopHandler._handler": lambda: EarlyStopHandler(1, lambda _: 0.0)._handler is None,
    "monai.handlers.CheckpointSaver._key_metric_checkpoint": lambda: isinstance(best_checkpoint(), Checkpoint),
    "monai.transforms.RandomizableTransform._do_transform": lambda: RandShiftIntensity(1.0, prob=1.0)._do_transform,
}


def is_there(name: str) -> bool:
    try:
        if name in PROBES:
            return PROBES[name]()
        pkgutil.resolve_name(name)
    except (AttributeError, ImportError, KeyError):
        return False
    return True


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def foreign_private_names(path: Path) -> Iterator[str]:
    """Private names that a module imports, or reads from an object that is not its own."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not f"{node.module}.".startswith("monai_essa."):
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                yield from [name] if any(map(is_private, name.split("."))) else []
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            if ast.unparse(node.value) not in ("self", "cls") or node.attr not in own:
                yield node.attr


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_still_there(name: str) -> None:
    owner = name.partition(".")[0]
    release = f"{owner} {version(PACKAGES[owner])}" if owner in PACKAGES else "this Python"
    assert is_there(name), f"{name} is gone from {release}: read what took its place, then change those who use it"


def test_each_probe_is_of_a_name_in_the_list() -> None:
    assert len(NAMES) > 20 and PROBES.keys() <= set(NAMES)


def test_a_name_that_is_gone_is_noticed() -> None:
    assert not is_there("torch.nn.Module._gone")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_list_is_complete(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0] != "label":
        ends = {name.rpartition(".")[2] for name in NAMES}
        assert not [name for name in foreign_private_names(path) if name.rpartition(".")[2] not in ends]
