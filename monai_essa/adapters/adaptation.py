# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Adapt a network in place, put it back, and hand out the plain network."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn as nn
from torch.utils.hooks import RemovableHandle

from monai_essa.adapters.adapted import (
    Adaptation,
    adaptation_of,
    enabled_adaptation,
    forget_adaptation,
    keep_adaptation,
    refuse_adapted_part,
    refuse_parallel,
    refuse_wrapped_part,
)
from monai_essa.adapters.claims import also_train_names, claimed_tensors, on_trial, unchanged_on_error
from monai_essa.anatomy.described.description import EncoderDescription
from monai_essa.anatomy.described.fit import describe
from monai_essa.anatomy.lean_marks import take_lean_off
from monai_essa.anatomy.parts import unwrapped
from monai_essa.methods.method import AdaptationMethod, AdapterLayer

__all__ = ["adapt", "disable_adapter", "merge", "method_shapes", "unadapt"]


def adapt(
    network: nn.Module,
    method: AdaptationMethod | Sequence[AdaptationMethod],
    also_train: Sequence[str] = (),
    anatomy: EncoderDescription | None = None,
) -> nn.Module:
    """Make the tensors of a method, and nothing else, learn; in place.

    The network computes what it computed before. The order is: build, ``load_weights``, ``adapt``, optimizer;
    ``torch.compile`` and DistributedDataParallel come after ``adapt``.

    **A state dict that is loaded later is a new base**, which :func:`disable_adapter` then restores, unless it is a
    checkpoint of this training. If the state dict holds frozen tensors of the encoder, it is a new base if they differ
    from those of the network and a checkpoint if they do not. If it holds none of them, or nothing is frozen
    (:class:`~monai_essa.methods.FullTuning`), it is a checkpoint if it holds tensors that a method added, if frozen
    tensors are what it lacks, or if it came from ``state_dict()`` of an adapted network. The last is a mark that
    ``torch.save`` keeps and that ``dict(state)`` drops, so do not rebuild such a dictionary.

    Args:
        network: a plain MONAI network; one that ``torch.compile`` or DataParallel wraps is seen through.
        method: one method of :mod:`monai_essa.methods`, or several that claim different tensors.
        also_train: regular expressions, matched in full against plain parameter names (a decoder, a head, norms).
        anatomy: where the parts of an encoder are that MONAI does not have; it is kept on the network.

    Returns:
        The same network object, with ``requires_grad`` set and the method's layers in place. Frozen normalisation
        layers stay in eval mode from here on, even after ``train()`` is called on the network.

    Raises:
        TypeError: if the class of the network is neither known nor described.
        ValueError: if the network or a part of it is adapted already or shares tensors with one that is, a method
            matches nothing, two methods claim one tensor, or a pattern of ``also_train`` matches nothing, a method's
            tensor or a parameter that no forward pass reaches. The network is then as it was.

    Example:
        >>> from monai.networks.nets import UNETR
        >>> from monai_essa.methods import APLA
        >>> net = adapt(UNETR(1, 2, 32, 4, 48, 96, 4), APLA(), also_train=["out\\\\..*"])
        >>> net.vit.blocks[0].attn.out_proj.weight.requires_grad, net.decoder5.transp_conv.conv.weight.requires_grad
        (True, False)
    """
    methods = (method,) if not isinstance(method, Sequence) else tuple(method)
    plain = unwrapped(network)
    refuse_parallel(network, "adapt")
    refuse_wrapped_part(plain)
    refuse_adapted_part(plain)
    with unchanged_on_error(plain):
        if anatomy is not None:
            describe(plain, anatomy)
        _adapt(plain, methods, also_train)
    _forget_compiled(network)
    return network


def unadapt(network: nn.Module) -> nn.Module:
    """Undo :func:`adapt`: what learned is lost, and the network is its base again. In place.

    Layers, values, hooks and ``requires_grad`` are as they were; gradients are dropped. A tensor that was overwritten
    gets a new storage, so that other references to the learned values keep them.

    Args:
        network: an adapted network that is not lean.

    Raises:
        ValueError: if the network is not adapted, or within :func:`disable_adapter`.
    """
    record, inner = enabled_adaptation(network), unwrapped(network)
    tensors, norms = _tensors(inner), _frozen_norms(inner, record.changing)
    for path, layer in _adapter_layers(inner):
        inner.set_submodule(path, layer.plain().train(layer.training))  # type: ignore[attr-defined]
    for name, value in record.base.items():
        tensors[name].data = value.to(tensors[name], copy=True)
        tensors[name].grad = None
    for path in norms:  # a frozen norm was held in eval mode, whatever the mode of the layers around it
        inner.get_submodule(path).train(inner.get_submodule(path.rpartition(".")[0]).training)
    forget_adaptation(inner, record)
    _forget_compiled(network)
    return network


def merge(network: nn.Module) -> nn.Module:
    """Fold the adapter into a new plain network; the adapted one is left as it is.

    Returns:
        A copy of the same class and with the same keys as before :func:`adapt`, with the learned values, with
        ``requires_grad`` as it was and with lean training undone. Its inference costs as much as that of the base.

    Raises:
        ValueError: if the network is not adapted, or within :func:`disable_adapter`.
        NotMergeable: if one of the layers cannot be expressed as a plain layer.
    """
    enabled_adaptation(network)
    others = adaptation_of(network).adapters
    plain = copy.deepcopy(unwrapped(network), {id(others): dict.fromkeys(others)})  # without their tensors
    take_lean_off(plain)
    record = adaptation_of(plain)
    for path, layer in _adapter_layers(plain):
        plain.set_submodule(path, layer.merged().train(plain.training))
    forget_adaptation(plain, record)
    return plain


@contextmanager
def disable_adapter(network: nn.Module) -> Iterator[nn.Module]:
    """Make the network exactly its base within the block: without adapter layers, and with the base's values.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa.methods import LoRA
        >>> net = adapt(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), LoRA())
        >>> with disable_adapter(net), torch.no_grad():
        ...     base_tokens, _ = net(torch.zeros(1, 1, 32, 32, 32))
    """
    record, inner = adaptation_of(network), unwrapped(network)
    layers = list(_adapter_layers(inner))
    tensors, was_disabled = _tensors(inner), record.disabled
    learned = {name: tensors[name].data for name in record.base}
    for path, layer in layers:
        inner.set_submodule(path, layer.plain().train(inner.training))
    for name, value in record.base.items():
        tensors[name].data = value.to(tensors[name], copy=True)  # a forward pass may overwrite it
    record.disabled = True
    try:
        yield network
    finally:
        record.disabled = was_disabled
        for name, value in learned.items():
            tensors[name].data = value
        for path, layer in layers:
            inner.set_submodule(path, layer)  # type: ignore[arg-type]


def method_shapes(network: nn.Module, methods: Sequence[AdaptationMethod]) -> dict[str, torch.Tensor] | None:
    """Try methods on a plain network without allocating memory, and leave it as it was.

    Returns:
        The entries of the state dict that would belong to the methods, as parameters without storage; None if a method
        has to read values, as peft's does to see that its initialisation leaves the pretrained weights alone.

    Raises:
        ValueError: if a method does not fit the network.
    """
    with on_trial(network):
        try:
            claimed_tensors(network, methods)
            names = _inject(network, methods)[0]
        except (NotImplementedError, RuntimeError):
            return None
        tensors = _tensors(network)
        return {name: tensors[name] for name in names}


def _adapt(network: nn.Module, methods: tuple[AdaptationMethod, ...], also_train: Sequence[str]) -> None:
    claims = claimed_tensors(network, methods)
    also = also_train_names(network, also_train, claims)
    required_grad = {name: parameter.requires_grad for name, parameter in network.named_parameters()}

    hooks = _hooks(network)
    owned, learning, added = _inject(network, methods)
    trained = learning | also
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in trained)

    changing = trained | added | _buffers_of(network, trained)
    record = Adaptation(
        methods=methods,
        also_train=tuple(also_train),
        claims=frozenset(claims),
        method_tensors=frozenset(owned),
        changing=frozenset(changing),
        required_grad=required_grad,
        base=_values(network, changing - added),
    )
    record.hooks = [*_new_hooks(hooks), *_freeze_norms(network, trained)]
    keep_adaptation(network, record)


def _forget_compiled(network: nn.Module) -> None:
    plain = unwrapped(network)
    if plain is not network or any(module._compiled_call_impl is not None for module in plain.modules()):
        torch.compiler.reset()  # code that was compiled before does not know the new hooks and layers


def _inject(network: nn.Module, methods: Sequence[AdaptationMethod]) -> tuple[set[str], set[str], set[str]]:
    """Place the layers of methods, and return the names of all their entries, of what learns and of what was added."""
    plain = set(_tensors(network))
    learning: set[str] = set().union(*(method.inject(network) for method in methods))
    added = set(_tensors(network)) - plain
    return learning | added | _buffers_of(network, learning), learning, added


def _adapter_layers(network: nn.Module) -> Iterator[tuple[str, AdapterLayer]]:
    yield from [(path, module) for path, module in network.named_modules() if isinstance(module, AdapterLayer)]


def _tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    return network.state_dict(keep_vars=True)


def _values(network: nn.Module, names: set[str]) -> dict[str, torch.Tensor]:
    tensors = _tensors(network)
    return {name: tensors[name].detach().to("cpu", copy=True) for name in sorted(names)}


def _buffers_of(network: nn.Module, trained: set[str]) -> set[str]:
    own = {name for name in trained if name.rpartition(".")[2] in ("weight", "bias")}
    owners = {name.rpartition(".")[0] for name in own}
    parameters = {name for name, _ in network.named_parameters()}
    return {name for name in _tensors(network) if name not in parameters and name.rpartition(".")[0] in owners}


def _freeze_norms(network: nn.Module, trained: set[str]) -> list[RemovableHandle]:
    """Keep frozen normalisation layers in eval mode, so that their running statistics are frozen too."""
    norms = _frozen_norms(network, trained)
    return [network.get_submodule(path).register_forward_pre_hook(_stay_in_eval) for path in norms]


def _frozen_norms(network: nn.Module, trained: Collection[str]) -> list[str]:
    return [
        path
        for path, module in network.named_modules()
        if getattr(module, "running_mean", None) is not None
        and not {f"{path}.weight", f"{path}.bias"}.intersection(trained)
    ]


def _hooks(network: nn.Module) -> list[tuple[dict[int, Any], set[int]]]:
    """List the dictionaries in which the modules keep their hooks, each with its current keys."""
    attributes = [item for module in network.modules() for item in vars(module).items()]
    return [(value, set(value)) for name, value in attributes if name.endswith("_hooks") and isinstance(value, dict)]


def _new_hooks(before: list[tuple[dict[int, Any], set[int]]]) -> list[RemovableHandle]:
    """Return handles of the hooks that methods, such as VPT, have registered since ``before`` was listed."""
    handles = []
    for hooks, known in before:
        for key in hooks.keys() - known:
            handles.append(RemovableHandle(hooks))
            handles[-1].id = key
    return handles


def _stay_in_eval(module: nn.Module, _: object) -> None:
    module.eval()
