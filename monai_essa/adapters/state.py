# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Take the tensors of an adapter out of an adapted network as a dictionary, check them, and put them into another.

They are named as in adapter files, ``encoder:blocks.0.attn.out_proj.rows`` or ``network:out.conv.conv.bias``, so that
the adapter of an encoder moves from a ViT to a UNETR.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
import torch.nn as nn

from monai_essa.adapters.adapted import enabled_adaptation
from monai_essa.adapters.identity import check_values, file_name, network_name
from monai_essa.anatomy.parts import unwrapped

__all__ = [
    "adapter_state_dict",
    "check_all_learned",
    "check_fits",
    "check_method_tensors",
    "check_part",
    "copy_in",
    "fitting_tensors",
    "load_adapter_state_dict",
]

_STATE = "the adapter state"


def adapter_state_dict(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors that :func:`~monai_essa.adapters.file.save_adapter` stores, by name in a file, as CPU copies.

    These are all tensors that may differ from the pretrained network: what learns, indices, and buffers of layers that
    learn. If the network has several adapters, the tensors of the active one are returned.

    Args:
        network: an adapted network; one that ``torch.compile`` or a parallel wrapper holds is seen through.

    Raises:
        ValueError: if the network is not adapted, or within :func:`~monai_essa.adapters.adaptation.disable_adapter`.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa import APLA, adapt
        >>> net = ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=1, num_heads=4)
        >>> state = adapter_state_dict(adapt(net, APLA(columns=8)))
        >>> {name: tuple(tensor.shape) for name, tensor in sorted(state.items())}["encoder:blocks.0.attn.out_proj.rows"]
        (8, 48)
    """
    record, network = enabled_adaptation(network), unwrapped(network)
    state = network.state_dict()
    return {
        file_name(network, name): state[name].detach().to("cpu", copy=True).contiguous() for name in record.changing
    }


def load_adapter_state_dict(network: nn.Module, state: Mapping[str, torch.Tensor], part: str = "all") -> nn.Module:
    """Put the tensors of an adapter, in place, into a network that is adapted by the same methods.

    Unlike a file, a dictionary has no record of its base: make sure that both networks have the same pretrained
    weights. Values are copied into the parameters, so an existing optimizer stays valid.

    Args:
        network: an adapted network; one that ``torch.compile`` or a parallel wrapper holds is seen through.
        state: of :func:`adapter_state_dict`.
        part: ``"all"``: the state has to hold every tensor that may differ from the base here, and no others.
            ``"method"``: only the methods' tensors are loaded, and a decoder or a head keeps its values.

    Returns:
        The same network object.

    Raises:
        ValueError: if the network is not adapted, if a tensor is missing, unknown, of another shape or not finite, or
            if an index is out of range. The network is then exactly as it was.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa import LoRA, adapt
        >>> one, two = (ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=1, num_heads=4) for _ in range(2))
        >>> two.load_state_dict(one.state_dict())
        <All keys matched successfully>
        >>> state = adapter_state_dict(adapt(one, LoRA()))
        >>> images = torch.zeros(1, 1, 32, 32, 32)
        >>> torch.equal(load_adapter_state_dict(adapt(two, LoRA()), state)(images)[0], one(images)[0])
        True
    """
    check_part(part)
    record, inner = enabled_adaptation(network), unwrapped(network)
    _check_tensors(state)
    check_values(state, _STATE)
    method_tensors = {file_name(inner, name) for name in record.method_tensors}
    theirs = method_tensors & set(state) if part == "method" else set(state)
    named = fitting_tensors(inner, {name: state[name] for name in theirs}, theirs & method_tensors, _STATE)
    if part == "all":
        check_all_learned(inner, state, _STATE)
    copy_in(inner, named)
    return network


def check_part(part: str) -> None:
    """Check the argument ``part``.

    Raises:
        ValueError: if it is neither ``"all"`` nor ``"method"``.
    """
    if part not in ("all", "method"):
        raise ValueError(f"part must be 'all' or 'method', got {part!r}")


def fitting_tensors(
    network: nn.Module, tensors: Mapping[str, torch.Tensor], method_tensors: Collection[str], where: str
) -> dict[str, torch.Tensor]:
    """Return tensors by name in an adapted network, after checking that all of them fit.

    Args:
        network: an adapted network, which is not changed.
        tensors: by name in the file.
        method_tensors: names of the methods' tensors in the file, which have to be the ones in the network.
        where: the file, for messages.

    Raises:
        ValueError: if a tensor is missing, unknown, frozen here or of another shape, or an index is out of range.
    """
    state, record = network.state_dict(), enabled_adaptation(network)
    check_method_tensors({file_name(network, name) for name in record.method_tensors}, method_tensors, where)
    named = {network_name(network, name): tensor for name, tensor in tensors.items()}
    for name, tensor in named.items():
        check_fits(name, tensor, state.get(name), where)
    frozen = sorted(set(named) - record.changing)
    if frozen:
        raise ValueError(
            f"{where} holds '{frozen[0]}', which is frozen here; name it in also_train or load part='method'"
        )
    _check_indices(state, named, where)
    return named


def check_method_tensors(here: Collection[str], theirs: Collection[str], where: str) -> None:
    """Check that the names of the methods' tensors are the same on both sides.

    Raises:
        ValueError: if one of them is on one side only.
    """
    lacking, unknown = set(here) - set(theirs), set(theirs) - set(here)
    if lacking:
        raise ValueError(f"{where} lacks '{min(lacking)}' ({len(lacking)} tensors); it was not saved whole")
    if unknown:
        raise ValueError(f"{where} holds '{min(unknown)}', which its methods do not make of this network")


def check_fits(name: str, theirs: torch.Tensor, here: torch.Tensor | None, where: str) -> None:
    """Check that the network has a tensor of this shape, and of this number format unless both are floating-point.

    Raises:
        ValueError: if it does not.
    """
    if here is None or here.shape != theirs.shape:
        has = "no such tensor" if here is None else f"shape {tuple(here.shape)}"
        raise ValueError(f"{where} holds '{name}' of shape {tuple(theirs.shape)}, the network has {has}")
    both_float = here.is_floating_point() and theirs.is_floating_point()
    if here.dtype != theirs.dtype and not both_float:
        raise ValueError(f"{where} holds '{name}' in {theirs.dtype}, the network has {here.dtype}")


def check_all_learned(network: nn.Module, held: Iterable[str], where: str) -> None:
    """Check that there is a value for every tensor that learns here; others would stay as another adapter left them.

    Raises:
        ValueError: if a tensor that may differ from the base here is not among ``held``.
    """
    here = {file_name(network, name) for name in enabled_adaptation(network).changing}
    lacking = sorted(here - set(held))
    if lacking:
        raise ValueError(
            f"{where} lacks '{lacking[0]}' ({len(lacking)} tensors), which learns here; load part='method' to keep "
            "what this network has, or use a base that is built and adapted like the file's"
        )


def copy_in(network: nn.Module, named: Mapping[str, torch.Tensor]) -> None:
    """Copy values, by name in the network, into its tensors."""
    state = network.state_dict()
    with torch.no_grad():
        for name, tensor in named.items():
            state[name].copy_(tensor)


def _check_tensors(state: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{_STATE}: '{name}' is a {type(tensor).__name__}, expected a tensor")
        if not str(name).startswith(("encoder:", "network:")):
            raise ValueError(
                f"{_STATE}: expected names like 'encoder:norm.weight' and 'network:out.bias', got '{name}'"
            )


def _check_indices(state: Mapping[str, torch.Tensor], named: Mapping[str, torch.Tensor], where: str) -> None:
    """Check that indices point to rows of the weight in the same module."""
    for name, tensor in named.items():
        weight = state.get(f"{name.rpartition('.')[0]}.weight")
        if weight is None or tensor.is_floating_point() or tensor.dim() != 1 or not len(tensor):
            continue
        if tensor.max() >= len(weight):
            raise ValueError(f"{where}: '{name}' holds the index {int(tensor.max())} of {len(weight)} rows")
