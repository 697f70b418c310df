# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Refuse a weight file that would leave a network worse than its user believes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn

from monai_essa.outside import check_pattern, shown
from monai_essa.weights.alignment import Alignment
from monai_essa.weights.diagnosis import differences, named_shapes
from monai_essa.weights.plan import Plan
from monai_essa.weights.weight_file import WeightFile
from monai_essa.weights.weight_report import TensorEntry

__all__ = ["check_accept", "refuse_differences", "refuse_several", "refuse_unfit_network", "refuse_unknown_names"]


def check_accept(accept: Sequence[str]) -> tuple[str, ...]:
    """Return the patterns of ``accept``; ValueError if they are no list of sound regular expressions."""
    if isinstance(accept, str) or not isinstance(accept, Sequence):
        raise ValueError(f"accept: expected a list of patterns of tensor names, got {shown(accept)}")
    return tuple(check_pattern(pattern, "accept") for pattern in accept)


def refuse_unfit_network(network: nn.Module) -> None:
    """Raise a ValueError if a part of the network is adapted already: its adapter was made for other weights."""
    if any(hasattr(module, "_monai_essa_adaptation") for module in network.modules()):
        raise ValueError(
            f"{type(network).__name__} is adapted; load before patching: adapt(...) comes after load_weights(...)"
        )


def refuse_unknown_names(
    file: WeightFile, network: nn.Module, fitting: Sequence[Alignment], prefix: str | None
) -> None:
    """Raise a ValueError: not one tensor of the file, or of those under the prefix, has a name of the encoder.

    Args:
        file: the weight file.
        network: the network to load into.
        fitting: the networks of the file under any prefix.
        prefix: that the caller gave.
    """
    if prefix is not None and fitting:
        raise ValueError(
            f"{file.name}: prefix {shown(prefix)} holds no tensor of {type(network).__name__}; give "
            f"{' or '.join(shown(each.prefix) for each in fitting)} (nothing was loaded)"
        )
    raise ValueError(
        f"{file.name}: none of its {len(file.tensors)} tensors has a name of {type(network).__name__}; "
        f"the file holds {shown(next(iter(file.tensors)))}, the network '{next(iter(network.state_dict()))}'; "
        f"give weights of this architecture (nothing was loaded)"
    )


def refuse_several(plans: Sequence[Plan], file: WeightFile, network: nn.Module) -> None:
    """Raise a ValueError if several networks of a file fit and their values differ: nobody knows which one is meant."""
    first = plans[0]
    for other in plans[1:]:
        if not _same_values(first, other):
            listed = ", ".join(f"{shown(each.report.prefix)} ({len(each.tensors)} tensors)" for each in plans)
            raise ValueError(
                f"{file.name} holds {len(plans)} networks that fit {type(network).__name__}, under {listed}; say "
                "which one by prefix= (in a bundle: pretrained_prefix; nothing was loaded)"
            )


def refuse_differences(plan: Plan, file: WeightFile, network: nn.Module) -> None:
    """Raise a ValueError if the file's encoder is another one than the network's, or values are not finite."""
    own = network.state_dict()
    for name, tensor in plan.tensors.items():
        if not tensor.to(own[name].dtype).isfinite().all():
            raise ValueError(f"{file.name}: '{name}' would get NaN or infinity; give another checkpoint")
    if not plan.differences:
        return
    shapes = named_shapes(plan.alignment.keys, file.tensors), named_shapes(plan.alignment.places, own)
    listed = [
        *differences(*shapes),
        *_some("only in the file", plan.differences.only_in_file),
        *_some("only in the network", plan.differences.only_in_network),
        *_some("does not fit", plan.differences.unfit, reasons=True),
    ]
    raise ValueError(
        f"{file.name}: its encoder is not that of this {type(network).__name__}: {'; '.join(listed)}; give weights of "
        "this architecture, or accept=[patterns of names] what may differ (nothing was loaded)"
    )


def _same_values(one: Plan, other: Plan) -> bool:
    return all(
        torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items() if name in other.tensors
    )


def _some(kind: str, entries: Sequence[TensorEntry], reasons: bool = False) -> list[str]:
    if not entries:
        return []
    names = [f"{shown(entry.name)} ({entry.reason})" if reasons else shown(entry.name) for entry in entries[:2]]
    more = f" and {len(entries) - 2} more" if len(entries) > 2 else ""
    return [f"{kind}: {', '.join(names)}{more}"]
