# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Keep several adapters on one network and switch them in memory: one is active, the others keep only their tensors.

The base is shared. Switching undoes ``adapt`` exactly for the active adapter and adapts the base with the methods of
the other one, so any two methods can take turns. The parameters that a method added are the same objects whenever their
adapter is active, so an optimizer that was built for an adapter stays valid after others were active.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn as nn

from monai_essa.adapters.adaptation import adapt, unadapt
from monai_essa.adapters.adapted import (
    Adaptation,
    KeptAdapter,
    adaptation_of,
    enabled_adaptation,
    is_adapted,
    mark_parts,
    refuse_parallel,
)
from monai_essa.adapters.claims import unchanged_on_error
from monai_essa.adapters.file import adapt_by_file, load_adapter, read_adapter
from monai_essa.anatomy.described.description import EncoderDescription
from monai_essa.anatomy.described.fit import describe
from monai_essa.anatomy.lean_marks import check_not_lean
from monai_essa.anatomy.parts import unwrapped
from monai_essa.devices import gpus_among
from monai_essa.methods.method import AdaptationMethod

__all__ = ["active_adapter", "adapter_names", "add_adapter", "remove_adapter", "set_adapter"]


def adapter_names(network: nn.Module) -> tuple[str, ...]:
    """Return the names of the adapters of a network in the order in which they were added; none for a plain network.

    The adapter of :func:`~monai_essa.adapters.adaptation.adapt` or :func:`~monai_essa.adapters.file.load_adapter` is
    called ``"default"``.
    """
    return tuple(adaptation_of(network).adapters) if is_adapted(network) else ()


def active_adapter(network: nn.Module) -> str:
    """Return the name of the active adapter: the one that the network uses, trains, saves and merges.

    Raises:
        ValueError: if the network is not adapted.
    """
    return next(name for name, kept in adaptation_of(network).adapters.items() if kept is None)


def add_adapter(
    network: nn.Module,
    name: str,
    adapter: str | Path | AdaptationMethod | Sequence[AdaptationMethod],
    also_train: Sequence[str] | None = None,
    methods: Sequence[type] = (),
    anatomy: EncoderDescription | None = None,
) -> nn.Module:
    """Add a named adapter in place. The first one of a plain network is active, others wait for ``set_adapter``.

    Args:
        network: the base with its pretrained weights, plain or adapted; one that ``torch.compile`` or a parallel
            wrapper holds is seen through.
        name: any text that no other adapter of the network has.
        adapter: a file of :func:`~monai_essa.adapters.file.save_adapter`, or one or more methods for a new adapter.
        also_train: patterns of what trains beside the methods; default: for a file what it records, else nothing.
        methods: classes of methods in the file that do not belong to the library.
        anatomy: as for :func:`~monai_essa.adapters.adaptation.adapt`, with the first adapter of a described network.

    Returns:
        The same network object. Unless the adapter is its first, it computes what it computed before.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the name is taken, or under the conditions of :func:`~monai_essa.adapters.adaptation.adapt` and
            :func:`~monai_essa.adapters.file.load_adapter`. The network is then exactly as it was.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa import APLA, LoRA
        >>> net = ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4)
        >>> net = add_adapter(add_adapter(net, "site_a", APLA(columns=8)), "site_b", LoRA(rank=4))
        >>> adapter_names(net), active_adapter(net)
        (('site_a', 'site_b'), 'site_a')
        >>> active_adapter(set_adapter(net, "site_b"))
        'site_b'
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"expected the name of an adapter, got {name!r}")
    if not is_adapted(network):
        _adapt(network, adapter, also_train, methods, anatomy)
        adaptation_of(network).adapters = {name: None}
        return network
    record = enabled_adaptation(network)
    if anatomy is not None:
        describe(unwrapped(network), anatomy)  # refuses another one
    if name in record.adapters:
        raise ValueError(
            f"{type(unwrapped(network)).__name__} has an adapter {name!r} already; choose another name, or call "
            "remove_adapter first"
        )
    check_not_lean(network, "add_adapter")
    record.adapters[name] = _made_on(_base_twin(network), adapter, also_train, methods)
    return network


def set_adapter(network: nn.Module, name: str) -> nn.Module:
    """Make another adapter of the network the active one, in place and from memory.

    The network then computes, bit for bit, what it would with this adapter alone. Call it between two training steps,
    because gradients are dropped. An optimizer updates the parameters that it was built with, so build one for each
    adapter after ``set_adapter``, and use it while that adapter is active. Methods that train tensors of the base, such
    as BitFit, share these parameters; their values are exchanged.

    Tensors follow the network to another device or number format when their adapter becomes active. References to the
    layers of a method become stale; those to the network's own layers do not. A compiled network is compiled again.

    Args:
        network: a network with adapters; one that ``torch.compile`` or DataParallel wraps is seen through.
        name: one of :func:`adapter_names`.

    Returns:
        The same network object.

    Raises:
        ValueError: if there is no adapter of that name, the network is lean or in DistributedDataParallel, within
            :func:`~monai_essa.adapters.adaptation.disable_adapter`, or another encoder was loaded since the adapter was
            active. The network is then exactly as it was.
    """
    record, inner = enabled_adaptation(network), unwrapped(network)
    _check_name(network, record, name)
    wanted, active = record.adapters[name], active_adapter(network)
    if wanted is None:
        return network
    check_not_lean(network, "set_adapter")
    refuse_parallel(network, "set_adapter")
    if wanted.base_is_gone:
        raise ValueError(
            f"adapter {name!r} belongs to the encoder that load_state_dict has replaced; remove_adapter it and add one "
            "that was made on this encoder"
        )
    with unchanged_on_error(inner):
        kept = _kept(inner)
        unadapt(network)
        _put_on(network, wanted)
        adaptation_of(network).adapters = {**record.adapters, active: kept, name: None}
    return network


def remove_adapter(network: nn.Module, name: str) -> nn.Module:
    """Remove an adapter in place and free its tensors; a network without its last adapter is its plain base.

    Args:
        network: a network with adapters.
        name: of an adapter that is not active, or of the only one.

    Returns:
        The same network object.

    Raises:
        ValueError: if there is no adapter of that name, or it is active and there are others. The network is then
            exactly as it was.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa import BitFit, adapt
        >>> net = adapt(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), BitFit())
        >>> adapter_names(remove_adapter(net, "default"))
        ()
    """
    record = enabled_adaptation(network)
    _check_name(network, record, name)
    if record.adapters[name] is not None:
        del record.adapters[name]
        return network
    if len(record.adapters) > 1:
        raise ValueError(f"adapter {name!r} is active; call set_adapter with another name before it is removed")
    check_not_lean(network, "remove_adapter")
    refuse_parallel(network, "remove_adapter")
    return unadapt(network)


def _adapt(
    network: nn.Module,
    adapter: str | Path | AdaptationMethod | Sequence[AdaptationMethod],
    also_train: Sequence[str] | None,
    methods: Sequence[type],
    anatomy: EncoderDescription | None,
) -> nn.Module:
    if isinstance(adapter, (str, Path)):
        return load_adapter(network, adapter, also_train=also_train, methods=methods, anatomy=anatomy)
    return adapt(network, adapter, () if also_train is None else also_train, anatomy)


def _made_on(
    twin: nn.Module,
    adapter: str | Path | AdaptationMethod | Sequence[AdaptationMethod],
    also_train: Sequence[str] | None,
    methods: Sequence[type],
) -> KeptAdapter:
    """Make an adapter on a twin of the base, without writing to the tensors that the twin shares."""
    values = {}
    if isinstance(adapter, (str, Path)):
        values = adapt_by_file(twin, read_adapter(adapter), also_train=also_train, methods=methods)
    else:
        adapt(twin, adapter, () if also_train is None else also_train)
    kept, shared = _kept(twin), adaptation_of(twin).base
    for name in shared:
        kept.tensors[name] = kept.tensors[name].clone()
    with torch.no_grad():
        for name, value in values.items():
            kept.tensors[name].copy_(value)
    return kept


def _base_twin(network: nn.Module) -> nn.Module:
    """Copy the modules of an adapted network and undo ``adapt`` on the copy; frozen tensors share their storage."""
    record, inner = enabled_adaptation(network), unwrapped(network)
    memo: dict[int, object] = {id(record.adapters): {}}
    memo |= {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in inner.parameters()}
    memo |= {id(value): value.detach() for value in (*inner.buffers(), *record.base.values())}
    return unadapt(copy.deepcopy(inner, memo))


def _kept(network: nn.Module) -> KeptAdapter:
    """Collect what has to be kept of the active adapter, without copying tensors."""
    record, tensors = adaptation_of(network), network.state_dict(keep_vars=True)
    return KeptAdapter(
        methods=record.methods,
        also_train=record.also_train,
        tensors={name: tensors[name].data if name in record.base else tensors[name] for name in record.changing},
        learning=frozenset(name for name, parameter in network.named_parameters() if parameter.requires_grad),
        dtype=_number_format(network),
    )


def _put_on(network: nn.Module, kept: KeptAdapter) -> None:
    """Adapt the base with the methods of an adapter, and put its tensors in place of the new ones."""
    inner = unwrapped(network)
    devices = {parameter.device for parameter in inner.parameters()}
    with torch.random.fork_rng(gpus_among(devices)):  # what is drawn is not used
        adapt(network, kept.methods, kept.also_train)
    made, base = inner.state_dict(keep_vars=True), adaptation_of(inner).base
    for name, tensor in kept.tensors.items():
        value = _converted(tensor, made[name].device, kept.dtype, _number_format(inner))
        if name in base:
            made[name].data = value
        else:
            tensor.data, tensor.grad = value, None
            path, _, leaf = name.rpartition(".")
            setattr(inner.get_submodule(path), leaf, tensor)
    for name, parameter in inner.named_parameters():
        parameter.requires_grad_(name in kept.learning)
    mark_parts(inner)


def _converted(tensor: torch.Tensor, device: torch.device, before: torch.dtype, now: torch.dtype) -> torch.Tensor:
    """Convert a tensor as the network was converted since; a tensor in its own format keeps it if the network did."""
    follows = before != now and tensor.is_floating_point()
    return tensor.data.to(device, now if follows else tensor.dtype)


def _number_format(network: nn.Module) -> torch.dtype:
    return next(parameter.dtype for parameter in network.parameters() if parameter.is_floating_point())


def _check_name(network: nn.Module, record: Adaptation, name: str) -> None:
    if name not in record.adapters:
        raise ValueError(
            f"{type(unwrapped(network)).__name__} has no adapter {name!r}, only {', '.join(map(repr, record.adapters))}"
        )
