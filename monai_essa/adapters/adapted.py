# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What an adapted network keeps on itself, and how it tells a new base from a checkpoint that is loaded."""

from __future__ import annotations

import itertools
import weakref
from dataclasses import dataclass, field

import torch
import torch.nn as nn
from torch.utils.hooks import RemovableHandle

from monai_essa.anatomy.lean_marks import plain_state
from monai_essa.anatomy.parts import dead_parameters, part_of, unwrapped
from monai_essa.anatomy.positions import is_position_table
from monai_essa.methods.method import AdaptationMethod, AdapterLayer

__all__ = [
    "Adaptation",
    "KeptAdapter",
    "adaptation_of",
    "base_tensors",
    "enabled_adaptation",
    "forget_adaptation",
    "is_adapted",
    "keep_adaptation",
    "mark_parts",
    "refuse_adapted_part",
    "refuse_parallel",
    "refuse_wrapped_part",
]

_RECORD = "_monai_essa_adaptation"
# On the parts of an adapted network. A module is marked with the class of the network, which its copies keep. A
# parameter is marked with a number under which this process remembers it: a file keeps the number, but the parameter
# that is read from the file is another object and no part of a network. (An address would not do: Python gives the
# address of a freed parameter to a new one.)
_PART = "_monai_essa_part_of"
_numbers = itertools.count()
_marked: weakref.WeakValueDictionary[int, nn.Parameter] = weakref.WeakValueDictionary()
_FIRST = "default"  # the name of an adapter that was added without one
_CHECKPOINT = "monai_essa_checkpoint"  # in the metadata of the state dict of an adapted network


@dataclass
class Adaptation:
    """What :func:`~monai_essa.adapters.adaptation.adapt` did to a network; kept on the network itself.

    Attributes:
        methods: the methods, in the order in which they were passed.
        also_train: patterns of the plain names that learn beside the methods.
        claims: names of the plain tensors that the methods act on.
        method_tensors: names of the state-dict entries that belong to the methods.
        changing: names of all entries that may differ from the base: these make up an adapter file.
        required_grad: the ``requires_grad`` of each parameter before.
        base: values before training, on the CPU, of the plain tensors that training overwrites.
        hooks: handles of the hooks on the network.
        disabled: True within :func:`~monai_essa.adapters.adaptation.disable_adapter`.
        adapters: the adapters of the network by name, in the order in which they were added; None for the active one.
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
        also_train: patterns of the plain names that learn beside the methods.
        tensors: by name in the network: the parameters and buffers that the methods added, as the same objects, and the
            values of the base's tensors that training overwrote.
        learning: names of the parameters that learn.
        dtype: number format of the network when the adapter was kept.
        base_is_gone: True if another encoder has been loaded since.
    """

    methods: tuple[AdaptationMethod, ...]
    also_train: tuple[str, ...]
    tensors: dict[str, torch.Tensor]
    learning: frozenset[str]
    dtype: torch.dtype
    base_is_gone: bool = False


def adaptation_of(network: nn.Module) -> Adaptation:
    """Return the record of :func:`~monai_essa.adapters.adaptation.adapt`.

    Raises:
        ValueError: if the network is not adapted, or a part of it was compiled or parallelised by itself.
    """
    inner = unwrapped(network)
    record: Adaptation | None = vars(inner).get(_RECORD)
    if record is None:
        raise ValueError(f"{type(inner).__name__} is not adapted; call adapt(network, method) first")
    refuse_wrapped_part(inner)
    return record


def enabled_adaptation(network: nn.Module) -> Adaptation:
    """Return the record of a network whose adapter is in place.

    Raises:
        ValueError: if the network is not adapted, or within :func:`~monai_essa.adapters.adaptation.disable_adapter`,
            where the adapter is not in place.
    """
    record = adaptation_of(network)
    if record.disabled:
        raise ValueError(
            f"{type(unwrapped(network)).__name__} is its base within disable_adapter; leave the block before the "
            "adapter is saved, loaded, switched or merged"
        )
    return record


def is_adapted(network: nn.Module) -> bool:
    """Tell whether a network, wrapped or not, is adapted."""
    return _RECORD in vars(unwrapped(network))


def base_tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of the plain base by name, with the values from before training.

    Args:
        network: plain or adapted; frozen weights that lean training stores in fewer bits are returned in full
            precision.
    """
    state = plain_state(network)
    record: Adaptation | None = vars(network).get(_RECORD)
    if record is None:
        return state
    added = record.changing - record.base.keys()
    return {name: record.base.get(name, tensor) for name, tensor in state.items() if name not in added}


def keep_adaptation(network: nn.Module, record: Adaptation) -> None:
    """Keep the record on the network, mark its parts, and follow the state dicts that it takes and returns."""
    record.hooks += [
        network.register_load_state_dict_pre_hook(_follow_new_base),
        network.register_state_dict_post_hook(_mark_checkpoint),
    ]
    setattr(network, _RECORD, record)
    mark_parts(network)


def forget_adaptation(network: nn.Module, record: Adaptation) -> None:
    """Remove the hooks, the record and the marks, and restore ``requires_grad``; the layers stay as they are."""
    for hook in record.hooks:
        hook.remove()
    delattr(network, _RECORD)
    for part in (*network.modules(), *network.parameters()):
        vars(part).pop(_PART, None)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(record.required_grad[name])


def mark_parts(network: nn.Module) -> None:
    """Mark modules and parameters as parts of an adapted network, so that ``adapt`` refuses them in another one."""
    for module in network.modules():
        vars(module)[_PART] = type(network).__name__
    for parameter in network.parameters():
        vars(parameter)[_PART] = number = next(_numbers)
        _marked[number] = parameter


def refuse_parallel(network: nn.Module, step: str) -> None:
    """Check that the network is not in DistributedDataParallel before a step that adds or removes parameters.

    Raises:
        ValueError: if it is, or a part of it is; the message names the step.
    """
    if any(isinstance(module, nn.parallel.DistributedDataParallel) for module in network.modules()):
        raise ValueError(
            f"DistributedDataParallel keeps the parameters that it was built with; call {step} on the network before "
            "it is wrapped"
        )


def refuse_wrapped_part(network: nn.Module) -> None:
    """Raise a ValueError if a part of the network was compiled or parallelised by itself."""
    for path, module in network.named_modules():
        if unwrapped(module) is not module:
            raise ValueError(
                f"'{path}' of {type(network).__name__} is wrapped by {type(module).__name__}, and its tensors "
                "have other names; compile or parallelise the whole network, after adapt"
            )


def refuse_adapted_part(network: nn.Module) -> None:
    """Raise a ValueError if the network or a part of it is adapted or shares tensors with an adapted network."""
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
        return mark is not None and _marked.get(mark) is part
    return mark is not None or isinstance(part, AdapterLayer)


def _mark_checkpoint(network: nn.Module, state: object, prefix: str, metadata: dict[str, object]) -> None:
    if not vars(network)[_RECORD].disabled:
        metadata[_CHECKPOINT] = True


def _follow_new_base(
    network: nn.Module, state: dict[str, torch.Tensor], prefix: str, metadata: dict[str, object], *_: object
) -> None:
    """Take a state dict that is loaded after ``adapt`` for a new base, unless it is a checkpoint of this training."""
    record: Adaptation = vars(network)[_RECORD]
    new = {name: state[prefix + name] for name in network.state_dict(keep_vars=True) if prefix + name in state}
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
    """Tell whether a tensor of the base's encoder changes; torch itself refuses a tensor of another shape."""
    base = {name: value for name, value in base_tensors(network).items() if part_of(network, name) == "encoder"}
    fitting = {name: value for name, value in base.items() if name in new and new[name].shape == value.shape}
    return any(not torch.equal(value, new[name].to(value)) for name, value in fitting.items())


def _is_checkpoint(network: nn.Module, new: dict[str, torch.Tensor], marked: bool) -> bool:
    """Tell a checkpoint from a new base by the tensors that are frozen here, or else by the mark.

    Fixed position embeddings and parameters that no forward pass reaches are the same in most networks and show
    nothing.
    """
    apart = vars(network)[_RECORD].changing | dead_parameters(network)
    frozen = {name: tensor for name, tensor in network.state_dict(keep_vars=True).items() if name not in apart}
    loaded = {name: tensor for name, tensor in frozen.items() if name in new and new[name].shape == tensor.shape}
    if any(not torch.equal(tensor, new[name].to(tensor)) for name, tensor in loaded.items()):
        return False
    telling = {
        name
        for name, tensor in frozen.items()
        if isinstance(tensor, nn.Parameter) and part_of(network, name) == "encoder" and not is_position_table(name)
    }
    return marked or bool(telling)
