# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Adapt a network in place, put it back, and hand out the plain network."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn as nn
from torch.utils.hooks import RemovableHandle

from monai_essa.claims import also_train_names, claimed_tensors
from monai_essa.lean_marks import take_lean_off
from monai_essa.methods.method import AdaptationMethod, AdapterLayer

__all__ = ["Adaptation", "adapt", "adaptation_of", "disable_adapter", "merge"]

_RECORD = "_monai_essa_adaptation"


@dataclass
class Adaptation:
    """What :func:`adapt` did to a network; kept on the network itself.

    Attributes:
        methods: the methods, in the order given.
        also_train: the patterns of plain names that learn beside the methods.
        claims: names of the plain tensors that the methods act on.
        method_tensors: names of the state-dict entries that belong to the methods.
        changing: names of all entries that may differ from the base: these make up an adapter file.
        required_grad: the parameters' ``requires_grad`` before.
        base: values, before training, of plain tensors that training overwrites (on the CPU).
        hooks: handles of the hooks on the network.
    """

    methods: tuple[AdaptationMethod, ...]
    also_train: tuple[str, ...]
    claims: frozenset[str]
    method_tensors: frozenset[str]
    changing: frozenset[str]
    required_grad: dict[str, bool]
    base: dict[str, torch.Tensor]
    hooks: list[RemovableHandle] = field(default_factory=list)


def adapt(
    network: nn.Module, method: AdaptationMethod | Sequence[AdaptationMethod], also_train: Sequence[str] = ()
) -> nn.Module:
    """Make the tensors of a method, and nothing else, learn. In place; the same object is returned.

    The network computes what it computed before. The order is: build, ``load_weights``, ``adapt``, optimizer.

    Args:
        network: a plain MONAI network.
        method: one method of :mod:`monai_essa.methods`, or several that claim different tensors.
        also_train: regular expressions, matched in full against plain parameter names (a decoder, a head, norms).

    Returns:
        The network, with ``requires_grad`` set and layers of the method in place; frozen normalisation layers stay in
        eval mode from here on, whatever ``train()`` is called on the network.

    Raises:
        ValueError: if the network is adapted already, a method matches nothing, two methods claim one tensor, or a
            pattern of ``also_train`` matches nothing, a method's tensor or a parameter that no forward pass reaches.

    Example:
        >>> from monai.networks.nets import UNETR
        >>> from monai_essa.methods import APLA
        >>> net = adapt(UNETR(1, 2, 32, 4, 48, 96, 4), APLA(), also_train=["out\\\\..*"])
        >>> net.vit.blocks[0].attn.out_proj.weight.requires_grad, net.decoder5.transp_conv.conv.weight.requires_grad
        (True, False)
    """
    methods = (method,) if not isinstance(method, Sequence) else tuple(method)
    if hasattr(network, _RECORD):
        raise ValueError(f"{type(network).__name__} is adapted already; call merge() first, or load_adapter() to swap")
    claims = claimed_tensors(network, methods)
    also = also_train_names(network, also_train, claims)
    plain = _tensors(network)
    required_grad = {name: parameter.requires_grad for name, parameter in network.named_parameters()}

    learning = _inject(network, methods)
    added = set(_tensors(network)) - set(plain)
    trained = learning | also
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in trained)

    changing = trained | added | _buffers_of(network, trained)
    record = Adaptation(
        methods=methods,
        also_train=tuple(also_train),
        claims=frozenset(claims),
        method_tensors=frozenset(learning | added | _buffers_of(network, learning)),
        changing=frozenset(changing),
        required_grad=required_grad,
        base=_values(network, changing - added),
    )
    record.hooks = [*_freeze_norms(network, trained), network.register_load_state_dict_pre_hook(_follow_new_base)]
    setattr(network, _RECORD, record)
    return network


def merge(network: nn.Module) -> nn.Module:
    """Fold the adapter in and give a new plain network; the adapted one is left as it is.

    Returns:
        A copy of the same class and with the same keys as before :func:`adapt`, holding the learned values, with
        ``requires_grad`` as it was and lean training undone. Inference with it costs what it costs with the base.

    Raises:
        ValueError: if the network is not adapted.
        NotMergeable: if one of the layers cannot be expressed as a plain layer.
    """
    adaptation_of(network)
    plain = copy.deepcopy(network)
    take_lean_off(plain)
    record = adaptation_of(plain)
    for path, layer in _adapter_layers(plain):
        plain.set_submodule(path, layer.merged().train(plain.training))
    for hook in record.hooks:
        hook.remove()
    delattr(plain, _RECORD)
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(record.required_grad[name])
    return plain


@contextmanager
def disable_adapter(network: nn.Module) -> Iterator[nn.Module]:
    """Within the block the network is its base, exactly: adapter layers out, overwritten tensors at base values.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa.methods import LoRA
        >>> net = adapt(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), LoRA())
        >>> with disable_adapter(net), torch.no_grad():
        ...     base_tokens, _ = net(torch.zeros(1, 1, 32, 32, 32))
    """
    record = adaptation_of(network)
    layers = list(_adapter_layers(network))
    tensors = _tensors(network)
    learned = {name: tensors[name].data for name in record.base}
    for path, layer in layers:
        network.set_submodule(path, layer.plain().train(network.training))
    for name, value in record.base.items():
        tensors[name].data = value.to(tensors[name], copy=True)  # a forward pass may overwrite it
    try:
        yield network
    finally:
        for name, value in learned.items():
            tensors[name].data = value
        for path, layer in layers:
            network.set_submodule(path, layer)  # type: ignore[arg-type]


def adaptation_of(network: nn.Module) -> Adaptation:
    """Give the record of :func:`adapt`.

    Raises:
        ValueError: if the network is not adapted.
    """
    record = getattr(network, _RECORD, None)
    if record is None:
        raise ValueError(f"{type(network).__name__} is not adapted; call adapt(network, method) first")
    return record


def _inject(network: nn.Module, methods: tuple[AdaptationMethod, ...]) -> set[str]:
    with ExitStack() as undo:
        undo.callback(_take_out, network)  # a refused method leaves nothing of the ones before it
        learning: set[str] = set().union(*(method.inject(network) for method in methods))
        undo.pop_all()
    return learning


def _take_out(network: nn.Module) -> None:
    for path, layer in _adapter_layers(network):
        network.set_submodule(path, layer.plain())


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
    """Running statistics of a frozen normalisation layer are frozen too: it stays in eval mode."""
    return [
        module.register_forward_pre_hook(_stay_in_eval)
        for path, module in network.named_modules()
        if getattr(module, "running_mean", None) is not None and not {f"{path}.weight", f"{path}.bias"} & trained
    ]


def _stay_in_eval(module: nn.Module, _: object) -> None:
    module.eval()


def _follow_new_base(network: nn.Module, state: dict[str, torch.Tensor], prefix: str, *_: object) -> None:
    """A plain state dict that is loaded after adapt, with other frozen values, is the new base: base values follow."""
    record = adaptation_of(network)
    frozen = {name: value for name, value in _tensors(network).items() if name not in record.changing}
    loaded = [(value, state[prefix + name]) for name, value in frozen.items() if prefix + name in state]
    if all(torch.equal(now, new.to(now)) for now, new in loaded if now.shape == new.shape):
        return  # a checkpoint of this very run: its trained values are no base
    for name in record.base:
        if prefix + name in state:
            record.base[name] = state[prefix + name].detach().to("cpu", copy=True)
