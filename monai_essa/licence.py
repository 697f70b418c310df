# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The origin of weights: their family, licence and authors, which travel with everything that is made of them.

An adapter holds modified tensors of its base, and a merged model is one: both are under the base's terms. So the origin
is kept on the network when weights are loaded, and is written into adapter files, ``model.pt``, ``run.json`` and
bundles. What is not known is None and is said. This module needs neither torch nor MONAI.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_essa.outside import ListOf, Nullable, Record, Text, shown

__all__ = [
    "ORIGIN",
    "check_permission",
    "keep_origin",
    "kept_card",
    "kept_origin",
    "licence_line",
    "licence_text",
    "states_origin",
]

_LINE = Text(longest=2000)
ORIGIN = Record(
    {
        "family": Nullable(_LINE),
        "sha256": Text(r"[0-9a-f]{64}", 64),
        "licence": Nullable(_LINE),
        "url": Nullable(_LINE),
        "read": Nullable(_LINE),
        "restrictions": Nullable(ListOf(_LINE, longest=20)),
        "cite": ListOf(_LINE, longest=20),
    },
    {"permission": _LINE},
)
"""The fields of an origin.

``family`` of weights, ``sha256`` of the file that its authors publish, ``licence`` by name, ``url`` of its text,
``read`` (the day on which it was read), ``restrictions`` (NC: no commercial use, ND: no sharing of modified weights,
SA: sharing under the same licence only; None where they are unknown), ``cite``, and ``permission`` where one had to be
given.
"""
_KEPT = "_monai_essa_origin"
_MEANING = {
    "NC": "no commercial use",
    "ND": "modified weights must not be shared",
    "SA": "modified weights are shared under the same licence only",
}


def keep_origin(network: Any, origin: Mapping[str, Any] | None, card: Mapping[str, Any] | None = None) -> None:
    """Keep the origin of its weights on a network, in place; copies keep it too, and the state dict does not change.

    Args:
        network: the network that the weights were loaded into.
        origin: the fields of :data:`ORIGIN`; None for weights of one's own.
        card: the preprocessing that the weights expect, as far as it is known.
    """
    setattr(network, _KEPT, (None if origin is None else dict(origin), dict(card or {})))


def kept_origin(network: Any) -> dict[str, Any] | None:
    """Return the origin of the weights of a network or of a part of it; None if none is kept."""
    return next((origin for origin, _ in _kept(network) if origin), None)


def states_origin(network: Any) -> bool:
    """Tell whether it is known where the weights of a network come from, be it from nobody else."""
    return bool(_kept(network))


def kept_card(network: Any) -> dict[str, Any]:
    """Return the preprocessing that the weights of a network expect; empty if nothing is known."""
    return next((card for _, card in _kept(network) if card), {})


def licence_line(origin: Mapping[str, Any]) -> str:
    """Return the licence of a base on one line.

    Example:
        >>> licence_line({"licence": "CC BY-NC 4.0", "restrictions": ["NC"], "url": None, "read": None})
        'CC BY-NC 4.0 (NC: no commercial use)'
        >>> licence_line({"licence": None, "restrictions": None, "url": None, "read": None})
        'unknown: ask the authors of the weights'
    """
    if origin["licence"] is None:
        return "unknown: ask the authors of the weights"
    known = origin["restrictions"]
    limits = (
        "restrictions unknown" if known is None else "; ".join(f"{each}: {_MEANING.get(each, each)}" for each in known)
    )
    facts = [limits, origin["url"], origin["read"]]
    return f"{origin['licence']} ({', '.join(fact for fact in facts if fact)})".removesuffix(" ()")


def licence_text(origin: Mapping[str, Any]) -> str:
    """Return the paragraph that a LICENSE file says about weights which derive from a base."""
    lines = [
        f"The weights derive from {origin['family'] or 'a file of an unknown family'}, sha256",
        f"{origin['sha256']}, which is not a work of the authors",
        "of monai_essa. They are under the licence of that base, as adapters of it are:",
        "",
        f"    licence   {licence_line(origin)}",
        *(f"    cite      {each}" for each in origin["cite"]),
    ]
    if "permission" in origin:
        lines.append(f"    permission to share them, as given by who made this copy: {origin['permission']}")
    return "\n".join(lines) + "\n"


def check_permission(origin: Mapping[str, Any] | None, permission: str | None, what: str) -> dict[str, Any] | None:
    """Return the origin with the permission; a licence without derivatives needs one before anything is shared.

    Args:
        origin: of the weights that would be shared, or None.
        permission: who allowed it and when, in words; None if nobody was asked.
        what: that would be written, for the message.

    Raises:
        ValueError: if the licence says ND and no permission is given, or the text is empty.

    Example:
        >>> base = {"family": "SuPreM", "licence": "CC BY-NC-ND 4.0", "restrictions": ["NC", "ND"]}
        >>> check_permission(base, "mail of the authors, 2 March", "model.pt")["permission"]
        'mail of the authors, 2 March'
    """
    if permission is not None and not _LINE.check(permission, "--permission").strip():
        raise ValueError("--permission: expected who allowed it and when, got an empty text")
    if origin is None:
        return None
    if permission is None and "ND" in (origin["restrictions"] or ()) and "permission" not in origin:
        raise ValueError(
            f"{what}: its base {shown(origin['family'])} is under {origin['licence']}, so modified weights must not be "
            "shared; ask its authors, and give their answer by --permission TEXT, which is recorded (a file that stays "
            "at your site needs none: take the run's model.pt)"
        )
    return {**origin, **({} if permission is None else {"permission": permission})}


def _kept(network: Any) -> list[tuple[dict[str, Any] | None, dict[str, Any]]]:
    return [getattr(module, _KEPT) for module in network.modules() if hasattr(module, _KEPT)]
