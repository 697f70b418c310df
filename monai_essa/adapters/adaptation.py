# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Adapt a network in place, put it back, and hand out the plain network."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn as nn
from torch.utils.hooks import RemovableHandle

from monai_essa.adapters.claims import also_train_names, claimed_tensors, on_trial, unchanged_on_error
from monai_essa.anatomy.lean_marks import plain_state, take_lean_off
from monai_essa.anatomy.parts import dead_parameters, part_of, unwrapped
from monai_essa.methods.method import AdaptationMethod, AdapterLayer

__all__ = [
    "Adaptation",
    "KeptAdapter",
    "adapt",
    "adaptation_of",
    "base_tensors",
    "disable_adapter",
    "enabled_adaptation",
    "is_adapted",
    "mark_parts",
    "merge",
    "method_shapes",
    "refuse_parallel",
    "unadapt",
]

_RECORD = "_monai_essa_adaptation"
# On the parts of an adapted network: the class of the network on modules, which copies of it keep, and on parameters
# their own identity, for a parameter that comes out of a file is no part of anything.
_PART = "_monai_essa_part_of"
_FIRST = "default"  # the name of an adapter that was given none
_CHECKPOINT = "monai_essa_checkpoint"  # in the metadata of a state dict that an adapted network gave


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
        disabled: within :func:`disable_adapter`.
        adapters: the adapters of the network by name, in the order that they were added; None for the active one.
    """

    methods: tuple[AdaptationMethod, ...]
    also_train: tuple[str, ...]
    claims: frozenset[str]
    method_tensors: frozenset[str]
    changing: frozenset[str]
    required_grad: dict[str, bool]
    base: dict[str, torch.Tensor]
    hooks: list[RemovableHandle] = field(default_factory=list)
    disabled: bool = False
    adapters: dict[str, KeptAdapter | None] = field(default_factory=lambda: {_FIRST: None})


@dataclass
class KeptAdapter:
    """What a network keeps of an adapter while another one is active.

    Attributes:
        methods: the methods.
        also_train: the patterns of plain names that learn beside them.
        tensors: by their names in the network: parameters and buffers that the methods added, the very objects, and the
            values of tensors of the base that training overwrote.
        learning: names of the parameters that learn.
        dtype: number format of the network when this was kept.
        base_is_gone: another encoder was loaded since.
    """

    methods: tuple[AdaptationMethod, ...]
    also_train: tuple[str, ...]
    tensors: dict[str, torch.Tensor]
    learning: frozenset[str]
    dtype: torch.dtype
    base_is_gone: bool = False


def adapt(
    network: nn.Module, method: AdaptationMethod | Sequence[AdaptationMethod], also_train: Sequence[str] = ()
) -> nn.Module:
    """Make the tensors of a method, and nothing else, learn. In place; the same object is returned.

    The network computes what it computed before. The order is: build, ``load_weights``, ``adapt``, optimizer;
    ``torch.compile`` and DistributedDataParallel come after ``adapt``.

    **A state dict that is loaded later is a new base**, which :func:`disable_adapter` then gives, unless it is a
    checkpoint of the run. If it holds frozen tensors of the encoder, these tell: they differ from those here, or they
    do not. If it holds none of them, or nothing is frozen (:class:`~monai_essa.methods.FullTuning`), it is a checkpoint
    if an adapted network gave it by ``state_dict()``, which ``torch.save`` keeps, if it holds tensors that a method
    added, or if frozen tensors are what it lacks. Rebuild no such dictionary: ``dict(state)`` drops the mark.

    Args:
        network: a plain MONAI network; one that ``torch.compile`` or DataParallel wraps is seen through.
        method: one method of :mod:`monai_essa.methods`, or several that claim different tensors.
        also_train: regular expressions, matched in full against plain parameter names (a decoder, a head, norms).

    Returns:
        The network, with ``requires_grad`` set and layers of the method in place; frozen normalisation layers stay in
        eval mode from here on, whatever ``train()`` is called on the network.

    Raises:
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
    _refuse_wrapped_part(plain)
    _refuse_adapted_part(plain)
    with unchanged_on_error(plain):
        _adapt(plain, methods, also_train)
    _forget_compiled(network)
    return network


def unadapt(network: nn.Module) -> nn.Module:
    """Undo :func:`adapt`: what learned is lost, and the network is its base again. In place.

    Layers, values, hooks and ``requires_grad`` are as they were; gradients are dropped. No tensor's storage is written
    to: a tensor that was overwritten gets another one, so that whoever holds the learned values keeps them.

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
    _forget(inner, record)
    _forget_compiled(network)
    return network


def merge(network: nn.Module) -> nn.Module:
    """Fold the adapter in and give a new plain network; the adapted one is left as it is.

    Returns:
        A copy of the same class and with the same keys as before :func:`adapt`, holding the learned values, with
        ``requires_grad`` as it was and lean training undone. Inference with it costs what it costs with the base.

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
    _forget(plain, record)
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


def adaptation_of(network: nn.Module) -> Adaptation:
    """Return the record of :func:`adapt`.

    Raises:
        ValueError: if the network is not adapted, or a part of it was compiled or parallelised by itself.
    """
    inner = unwrapped(network)
    record: Adaptation | None = vars(inner).get(_RECORD)
    if record is None:
        raise ValueError(f"{type(inner).__name__} is not adapted; call adapt(network, method) first")
    _refuse_wrapped_part(inner)
    return record


def enabled_adaptation(network: nn.Module) -> Adaptation:
    """Return the record of :func:`adapt` of a network whose adapter is in place.

    Raises:
        ValueError: if the network is not adapted, or within :func:`disable_adapter`, where what was learned is out.
    """
    record = adaptation_of(network)
    if record.disabled:
        raise ValueError(
            f"{type(unwrapped(network)).__name__} is its base within disable_adapter; leave the block before the "
            "adapter is saved, loaded, switched or merged"
        )
    return record


def is_adapted(network: nn.Module) -> bool:
    """Tell whether :func:`adapt` ran on this network, wrapped or not."""
    return _RECORD in vars(unwrapped(network))


def base_tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of the plain base by their names: those that training overwrote with their values before.

    Args:
        network: plain or adapted; frozen weights that lean training stores in fewer bits count in full precision.
    """
    state = plain_state(network)
    record: Adaptation | None = vars(network).get(_RECORD)
    if record is None:
        return state
    added = record.changing - record.base.keys()
    return {name: record.base.get(name, tensor) for name, tensor in state.items() if name not in added}


def method_shapes(network: nn.Module, methods: Sequence[AdaptationMethod]) -> dict[str, torch.Tensor] | None:
    """Try methods on a plain network without allocating anything, and leave it as it was.

    Returns:
        The entries of the state dict that would belong to the methods, parameters without storage; None if a method
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
    record.hooks = [
        *_new_hooks(hooks),
        *_freeze_norms(network, trained),
        network.register_load_state_dict_pre_hook(_follow_new_base),
        network.register_state_dict_post_hook(_mark_checkpoint),
    ]
    setattr(network, _RECORD, record)
    mark_parts(network)


def mark_parts(network: nn.Module) -> None:
    """Mark modules and parameters as parts of an adapted network, so that ``adapt`` refuses them in another one."""
    for module in network.modules():
        vars(module)[_PART] = type(network).__name__
    for parameter in network.parameters():
        vars(parameter)[_PART] = id(parameter)


def _forget(network: nn.Module, record: Adaptation) -> None:
    """Take off what :func:`adapt` left beside the layers: hooks, record, marks and what learns."""
    for hook in record.hooks:
        hook.remove()
    delattr(network, _RECORD)
    for part in (*network.modules(), *network.parameters()):
        vars(part).pop(_PART, None)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(record.required_grad[name])


def _forget_compiled(network: nn.Module) -> None:
    plain = unwrapped(network)
    if plain is not network or any(module._compiled_call_impl is not None for module in plain.modules()):
        torch.compiler.reset()  # what was compiled before does not know the hooks and layers


def _inject(network: nn.Module, methods: Sequence[AdaptationMethod]) -> tuple[set[str], set[str], set[str]]:
    """Let methods place their layers; name all entries that are theirs, those that learn and those that were added."""
    plain = set(_tensors(network))
    learning: set[str] = set().union(*(method.inject(network) for method in methods))
    added = set(_tensors(network)) - plain
    return learning | added | _buffers_of(network, learning), learning, added


def refuse_parallel(network: nn.Module, step: str) -> None:
    """Check that no DistributedDataParallel holds the network before parameters are added or removed.

    Raises:
        ValueError: if one does; the message names the step.
    """
    if any(isinstance(module, nn.parallel.DistributedDataParallel) for module in network.modules()):
        raise ValueError(
            f"DistributedDataParallel keeps the parameters that it was built with; call {step} on the network before "
            "it is wrapped"
        )


def _refuse_wrapped_part(network: nn.Module) -> None:
    for path, module in network.named_modules():
        if unwrapped(module) is not module:
            raise ValueError(
                f"'{path}' of {type(network).__name__} is wrapped by {type(module).__name__}, and its tensors "
                "have other names; compile or parallelise the whole network, after adapt"
            )


def _refuse_adapted_part(network: nn.Module) -> None:
    kind = type(network).__name__
    if _RECORD in vars(network):
        raise ValueError(
            f"{kind} is adapted already; call merge() first, load_adapter() to swap, or add_adapter() for one more"
        )
    for path, part in (*network.named_modules(), *network.named_parameters()):
        if _belongs_to_adapted(part):
            where = f"'{path}' of {kind}" if path else kind
            raise ValueError(
                f"{where} is a part of an adapted network, and its training would be lost; merge() that network first, "
                "or build a plain one and load_adapter() its file"
            )


def _belongs_to_adapted(part: nn.Module | nn.Parameter) -> bool:
    mark = vars(part).get(_PART)
    if isinstance(part, nn.Parameter):
        return bool(mark == id(part))
    return mark is not None or isinstance(part, AdapterLayer)


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
    """List the dictionaries in which the modules keep their hooks, each with the keys that it has."""
    attributes = [item for module in network.modules() for item in vars(module).items()]
    return [(value, set(value)) for name, value in attributes if name.endswith("_hooks") and isinstance(value, dict)]


def _new_hooks(before: list[tuple[dict[int, Any], set[int]]]) -> list[RemovableHandle]:
    """Return handles of the hooks that methods have registered since then, as VPT does on the encoder."""
    handles = []
    for hooks, known in before:
        for key in hooks.keys() - known:
            handles.append(RemovableHandle(hooks))
            handles[-1].id = key
    return handles


def _stay_in_eval(module: nn.Module, _: object) -> None:
    module.eval()


def _mark_checkpoint(network: nn.Module, state: object, prefix: str, metadata: dict[str, object]) -> None:
    if not vars(network)[_RECORD].disabled:
        metadata[_CHECKPOINT] = True


def _follow_new_base(
    network: nn.Module, state: dict[str, torch.Tensor], prefix: str, metadata: dict[str, object], *_: object
) -> None:
    """Take a state dict that is loaded after adapt for the new base, unless it is a checkpoint of the run."""
    record: Adaptation = vars(network)[_RECORD]
    new = {name: state[prefix + name] for name in _tensors(network) if prefix + name in state}
    added = record.changing - record.base.keys()
    if _is_checkpoint(network, new, _CHECKPOINT in metadata or not added.isdisjoint(new)):
        return
    if len(record.adapters) > 1 and _is_other_encoder(network, new):
        for kept in record.adapters.values():
            if kept is not None:
                kept.base_is_gone = True
    for name, value in record.base.items():
        if name in new and new[name].shape == value.shape:
            record.base[name] = new[name].detach().to("cpu", copy=True)


def _is_other_encoder(network: nn.Module, new: dict[str, torch.Tensor]) -> bool:
    """Tell whether a tensor of the base's encoder changes; one of another shape is refused by the loading itself."""
    base = {name: value for name, value in base_tensors(network).items() if part_of(network, name) == "encoder"}
    fitting = {name: value for name, value in base.items() if name in new and new[name].shape == value.shape}
    return any(not torch.equal(value, new[name].to(value)) for name, value in fitting.items())


def _is_checkpoint(network: nn.Module, new: dict[str, torch.Tensor], marked: bool) -> bool:
    """Tell a checkpoint of the run from a base: by what is frozen here, else by the mark.

    Fixed position embeddings and parameters that no forward pass reaches are alike in most networks and tell nothing.
    """
    apart = vars(network)[_RECORD].changing | dead_parameters(network)
    frozen = {name: tensor for name, tensor in _tensors(network).items() if name not in apart}
    loaded = {name: tensor for name, tensor in frozen.items() if name in new and new[name].shape == tensor.shape}
    if any(not torch.equal(tensor, new[name].to(tensor)) for name, tensor in loaded.items()):
        return False
    telling = {
        name
        for name, tensor in frozen.items()
        if isinstance(tensor, nn.Parameter) and part_of(network, name) == "encoder" and "position_emb" not in name
    }
    return marked or bool(telling)
