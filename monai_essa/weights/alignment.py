# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Find which tensor of a file belongs to which tensor of a network, by names alone.

Both sides are brought to *canonical* names: those of MONAI's bare encoders (``blocks.0.attn.qkv.weight``), and for
tensors outside the encoder the network's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch.nn as nn

from monai_essa.network_parts import encoder_prefix
from monai_essa.weights.key_maps import MONAI, KeyMap

__all__ = ["Alignment", "align"]

# A training checkpoint often holds the averaged network beside the trained one; the averaged one is the product.
_AVERAGED = {"teacher", "ema"}


@dataclass(frozen=True)
class Alignment:
    """How a file and a network go together.

    Attributes:
        key_map: the family that the file belongs to.
        prefix: of the file's keys that is no part of the names, such as ``"state_dict.module."``.
        keys: canonical name -> key of the file, for the keys under the prefix.
        places: canonical name -> name in the network, for all its tensors.
    """

    key_map: KeyMap
    prefix: str
    keys: dict[str, str]
    places: dict[str, str]

    @property
    def shared(self) -> list[str]:
        """Canonical names that both sides have."""
        return [name for name in self.keys if name in self.places]


def align(keys: Iterable[str], network: nn.Module, key_maps: Sequence[KeyMap]) -> Alignment:
    """Choose the family and the prefix under which the most keys of a file are names of the network.

    A ViT's file so fits ``UNETR.vit``, and a UNETR's file fits a ViT by way of the prefix ``"vit."``. On a tie an
    averaged network ("teacher", "ema") goes before the others, then the shortest prefix, then the first family.

    Args:
        keys: of the file's tensors.
        network: the plain network to load into.
        key_maps: the families to try.

    Returns:
        The best alignment; ``shared`` is empty where no name fits.

    Example:
        >>> from monai.networks.nets import ViT
        >>> vit = ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4)
        >>> align(["model.module.norm.weight", "model.module.head.weight"], vit, [MONAI]).prefix
        'model.module.'
    """
    keys = list(keys)
    encoder = encoder_prefix(network)
    places = {_canonical(name, MONAI, encoder): name for name in network.state_dict()}
    candidates = [
        (matches, _is_averaged(prefix), -len(prefix), -index, prefix)
        for index, key_map in enumerate(key_maps)
        for prefix, matches in _count_matches(keys, key_map, encoder, places).items()
    ]
    *_, index, prefix = max(candidates, default=(0, ""))
    key_map = key_maps[-index]
    named: dict[str, str] = {}
    for key in keys:
        if key.startswith(prefix):
            named.setdefault(_canonical(key.removeprefix(prefix), key_map, encoder), key)
    return Alignment(key_map, prefix, named, places)


def _canonical(name: str, key_map: KeyMap, encoder: str) -> str:
    return key_map.rename(name.removeprefix(encoder))


def _count_matches(keys: list[str], key_map: KeyMap, encoder: str, places: dict[str, str]) -> Counter[str]:
    return Counter(
        prefix for key in keys for prefix, rest in _splits(key) if _canonical(rest, key_map, encoder) in places
    )


def _splits(key: str) -> Iterator[tuple[str, str]]:
    yield "", key
    for position, character in enumerate(key):
        if character == ".":
            yield key[: position + 1], key[position + 1 :]


def _is_averaged(prefix: str) -> bool:
    return not _AVERAGED.isdisjoint(prefix.split("."))
