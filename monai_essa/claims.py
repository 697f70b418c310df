# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Which plain tensors learn: what the methods claim and what ``also_train`` names, refused where they conflict."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import torch.nn as nn

from monai_essa.lean_marks import check_not_lean
from monai_essa.methods.method import AdaptationMethod
from monai_essa.network_parts import check_known, dead_parameters
from monai_essa.outside import check_pattern

__all__ = ["also_train_names", "claimed_tensors"]


def claimed_tensors(network: nn.Module, methods: Sequence[AdaptationMethod]) -> set[str]:
    """Name the tensors that methods train, act on or add.

    Raises:
        TypeError: if the class of the network is unknown, so that nobody can say what is its encoder.
        ValueError: if the network is lean (lean comes after ``adapt``), a method other than HeadOnly matches nothing,
            or two methods claim one tensor.
    """
    check_known(network)
    check_not_lean(network, "adapt")
    claimed: dict[str, AdaptationMethod] = {}
    for method in methods:
        names = method.claims(network)
        if not names and type(method).__name__ != "HeadOnly":
            raise ValueError(f"{method} matches no layer of {type(network).__name__}; the README says what fits what")
        for name in names:
            if name in claimed:
                raise ValueError(f"{claimed[name]} and {method} both claim '{name}'; let one method act on each tensor")
            claimed[name] = method
    return set(claimed)


def also_train_names(network: nn.Module, patterns: Sequence[str], claims: set[str]) -> set[str]:
    """Name the parameters that train beside the methods.

    Args:
        network: a plain network.
        patterns: regular expressions, matched in full against plain parameter names.
        claims: what the methods claim.

    Raises:
        ValueError: if a pattern is no regular expression or may take for ever to match (it may come from a file), or
            matches nothing, a claimed tensor or a parameter that no forward pass reaches.
    """
    if isinstance(patterns, str):
        raise ValueError(f"also_train must be a list of patterns, got the text {patterns!r}")
    for pattern in patterns:
        check_pattern(pattern, "also_train")
    names = [name for name, _ in network.named_parameters()]
    dead, chosen = dead_parameters(network), set()
    for pattern in patterns:
        matched = {name for name in names if re.fullmatch(pattern, name)}
        if not matched:
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            raise ValueError(f"also_train pattern {pattern!r} matches no parameter; names look like {', '.join(near)}")
        for taken, owner in ((matched & claims, "the method trains"), (matched & dead, "no forward pass reaches")):
            if taken:
                raise ValueError(
                    f"also_train pattern {pattern!r} matches '{min(taken)}', which {owner}; narrow the pattern"
                )
        chosen |= matched
    return chosen
