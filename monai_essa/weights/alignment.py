# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Find which tensor of a file belongs to which tensor of a network, by their names alone.

Both sides are brought to *canonical* names: those of MONAI's bare encoders (``blocks.0.attn.qkv.weight``), and for
tensors outside the encoder the network's own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch.nn as nn

from monai_essa.anatomy.key_maps import MONAI, KeyMap
from monai_essa.anatomy.parts import dead_parameters, encoder_prefix, part_of
from monai_essa.anatomy.tensor_names import is_of_some_encoders

__all__ = ["Alignment", "alignments"]

# Parts of names that come from torch.compile, the parallel wrappers and activation checkpointing.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Optimizers keep tensors of the same shapes, some of them under the same names.
_OF_AN_OPTIMIZER = re.compile(
    r"(.*\.)?(\w*optimi[sz]er\w*|optim|(max_)?exp_avg(_sq)?s?|square_avg|momentum_buffers?|grads?|gradients?)\..*"
)


@dataclass(frozen=True)
class Alignment:
    """Which tensors of a network in a file and of a network in memory have the same canonical names.

    Attributes:
        key_map: the family of the file.
        prefix: of the file's keys, not a part of the canonical names, such as ``"state_dict.module."``.
        keys: canonical name -> key of the file, for the keys under the prefix.
        places: canonical name -> name in the network, for all its tensors.
        encoder: canonical names of the network's encoder, without those that no forward pass reaches.
        file_encoder: canonical names of the file's encoder, as far as names distinguish it from decoders and heads.
        doubles: keys of the file's encoder whose canonical name belongs to another key already.
    """

    key_map: KeyMap
    prefix: str
    keys: dict[str, str]
    places: dict[str, str]
    encoder: frozenset[str]
    file_encoder: frozenset[str]
    doubles: frozenset[str]

    @property
    def shared(self) -> list[str]:
        """Canonical names that both sides have."""
        return [name for name in self.keys if name in self.places]

    def is_renamed(self, name: str) -> bool:
        """Tell whether a tensor has another name in the file than in the network, apart from prefixes and wrappers."""
        key = _without(self.keys[name].removeprefix(self.prefix))
        return not _without(self.places[name]).endswith(key)


def alignments(
    keys: Iterable[str], network: nn.Module, key_maps: Sequence[KeyMap], prefix: str | None = None
) -> list[Alignment]:
    """List the networks in a file that have the most names of an encoder, one for each prefix.

    A file of a ViT thus fits ``UNETR.vit``, and a file of a UNETR fits a ViT through the prefix ``"vit."``. Parts of
    names that come from a wrapper, at any depth (``module.``, ``_orig_mod.``), are ignored unless two names would
    become equal.

    Args:
        keys: of the file's tensors.
        network: the plain network to load into.
        key_maps: the families to try.
        prefix: of the network to use, or its start, with or without the parts that come from wrappers; None for all.

    Returns:
        The alignments, the one with the most names of the whole network first, then the shortest prefix; empty where no
        name of the encoder fits.

    Example:
        >>> from monai.networks.nets import ViT
        >>> vit = ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4)
        >>> [each.prefix for each in alignments(["model.module.norm.weight", "model.module.head.bias"], vit, [MONAI])]
        ['model.module.']
    """
    plain, own = _without_wrappers(keys), _without_wrappers(network.state_dict())
    encoder, dead = encoder_prefix(network), dead_parameters(network)
    places = {MONAI.rename(name.removeprefix(encoder)): place for place, name in own.items()}
    needed = frozenset(
        name for name, place in places.items() if part_of(network, own[place]) == "encoder" and place not in dead
    )
    counts = [(key_map, _count_matches(plain, key_map, needed)) for key_map in key_maps]
    starts = [(key_map, start, count[start]) for key_map, count in counts for start in _chosen(count, encoder, prefix)]
    most = max((count for *_, count in starts), default=0)
    best: dict[str, KeyMap] = {}  # of grammars that read the names alike, the first
    for key_map, start, count in starts:
        if count == most:
            best.setdefault(start, key_map)
    found = [_alignment(plain, key_map, start, network, places, needed) for start, key_map in best.items()]
    return sorted(found, key=lambda each: (-len(each.shared), len(each.prefix)))


def _without_wrappers(keys: Iterable[str]) -> dict[str, str]:
    """Map keys to names without the parts that wrappers put in; to themselves where two names would become one."""
    plain = {key: _without(key) for key in keys}
    return plain if len(set(plain.values())) == len(plain) else {key: key for key in plain}


def _without(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in _WRAPPERS)


def _count_matches(plain: dict[str, str], key_map: KeyMap, needed: frozenset[str]) -> Counter[str]:
    """Count the names of the encoder after each prefix, without those that a file may lack."""
    return Counter(
        start
        for name in plain.values()
        for start, rest in _splits(name)
        if (renamed := key_map.rename(rest)) in needed
        and not key_map.why_optional(renamed)
        and not _OF_AN_OPTIMIZER.fullmatch(start)
    )


def _chosen(starts: Iterable[str], encoder: str, prefix: str | None) -> list[str]:
    """Return the prefixes of encoder names in the network that is asked for; an exact prefix takes precedence."""
    starts = list(starts)
    if prefix is None:
        return starts
    wanted = prefix if not prefix or prefix.endswith(".") else f"{prefix}."
    if not any(start.startswith(wanted) for start in starts):
        wanted = _without(wanted)
    exact = [start for start in starts if wanted in (start, _outer(start, encoder))]
    return exact or [start for start in starts if start.startswith(wanted)]


def _outer(start: str, encoder: str) -> str:
    """Remove the name that the encoder has within its network if the prefix ends with it."""
    return start.removesuffix(encoder) if _is_apart(start, encoder) else start


def _is_apart(start: str, encoder: str) -> bool:
    return bool(encoder) and f".{start}".endswith(f".{encoder}")


def _alignment(
    plain: dict[str, str],
    key_map: KeyMap,
    start: str,
    network: nn.Module,
    places: dict[str, str],
    needed: frozenset[str],
) -> Alignment:
    encoder = encoder_prefix(network)
    outer, apart = _outer(start, encoder), _is_apart(start, encoder)
    keys: dict[str, str] = {}
    doubles = set()
    for key, name in plain.items():
        if name.startswith(start) and keys.setdefault(key_map.rename(name.removeprefix(start)), key) is not key:
            doubles.add(key)
    inside = set(keys)
    # After the encoder: in a UNETR's file "vit.norm.weight" goes before a "norm.weight" beside it.
    for key, name in plain.items():
        if name.startswith(outer) and not name.startswith(start):
            keys.setdefault(key_map.rename(name.removeprefix(outer)), key)
    roots = {name.partition(".")[0] for name in needed}
    of_encoder = (
        inside if apart else {name for name in inside if _belongs(name, network, roots) or key_map.why_refused(name)}
    )
    prefix = _as_in_the_file(outer, {key: plain[key] for name, key in keys.items() if name in places})
    return Alignment(key_map, prefix, keys, places, needed, frozenset(of_encoder), frozenset(doubles))


def _belongs(name: str, network: nn.Module, roots: set[str]) -> bool:
    """Tell by name alone whether a tensor of a file belongs to the encoder, and not to the decoder or head."""
    if is_of_some_encoders(name):
        return True
    return name.partition(".")[0] in roots and (bool(encoder_prefix(network)) or part_of(network, name) == "encoder")


def _as_in_the_file(prefix: str, plain: dict[str, str]) -> str:
    """Return a prefix of names with the wrapper parts that all keys have; ``plain`` maps keys to names."""
    raw = {prefix if key == name else _raw_prefix(key, prefix.count(".")) for key, name in plain.items()}
    return min(raw, key=len)


def _raw_prefix(key: str, parts: int) -> str:
    taken = ""
    for part in key.split(".")[:-1]:
        if part not in _WRAPPERS:
            parts -= 1
        if parts < 0:
            break
        taken += f"{part}."
    return taken


def _splits(key: str) -> Iterator[tuple[str, str]]:
    yield "", key
    for position, character in enumerate(key):
        if character == ".":
            yield key[: position + 1], key[position + 1 :]
