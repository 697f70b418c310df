# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""MONAI's forward passes that lean training replaces, by the digests of the sources that it was written for.

A replacement repeats what MONAI's code does, so it is right only for the code that it repeats. In another release, or
where another package has patched a class, MONAI's own forward pass stays: it costs memory, but it computes what it
should.
"""

from __future__ import annotations

import functools
import inspect
import logging
import operator
import sys
from types import CodeType

import monai
import torch.nn as nn
from monai.networks.blocks import UnetrUpBlock
from monai.networks.blocks.dynunet_block import UnetResBlock
from monai.networks.blocks.selfattention import SABlock
from monai.networks.nets.swin_unetr import SwinTransformerBlock, WindowAttention

from monai_essa.files import sha256

__all__ = ["has_known_forward"]

_logger = logging.getLogger(__name__)
_RELEASES = "1.5.2, 1.6.0 and 1.6.1"
# For each class the functions that its replacement repeats, as names in the module of the class, with the sha256 of
# their source in those releases. A new release joins by its digests, once the replacement was compared with its code.
_KNOWN: dict[type[nn.Module], dict[str, tuple[str, ...]]] = {
    SABlock: {
        "SABlock.forward": (
            "5bcfe2e119231c254450f9094ff445dce64dc5ba935d42d7c45ca6ab2dac9fc3",  # 1.5.2
            "09297e56fc454cbfba191a3f92b6fc54362037dfe33e7733379feca88828edad",  # 1.6.0, 1.6.1: a comment for a linter
        )
    },
    WindowAttention: {
        "WindowAttention.forward": (
            "aa8ea2ac82d0e1a3fa047540467a5749eeb7b7959ba6535394a0763d74062c61",  # 1.5.2, 1.6.0
            "ba16a1bc411de29bf12feee3ce47bb7fc678c749c1ce72af1f9f1bd2eeb040bf",  # 1.6.1: flash attention at inference
        )
    },
    # Its own forward pass runs, but hands groups of windows to the attention in place of the mask of compute_mask.
    SwinTransformerBlock: {
        "SwinTransformerBlock.forward": ("41ab0882ec1e8635afcc8612342fe54bd3136bdb2df48f074220b1c91fb7ebc9",),
        "SwinTransformerBlock.forward_part1": ("c37eeb39199745faeee6a044c06d155a0364d3a790c13d666f426d8d86a12acb",),
        "compute_mask": (
            "22638c4877b7db0dba71f6405b3ea04f099d3993f2884177604c01db4383ddcc",  # 1.5.2
            "2cc51e1ad672129cace0c6f48e8b144a6a432d32acbe7e9f1eefa8bb38244183",  # 1.6.0, 1.6.1: -100.0 without float()
        ),
    },
    UnetResBlock: {"UnetResBlock.forward": ("120a1fc252157b43466d6ebf9420af43344a518293e2a9ed19e07fba9cdef4e2",)},
    UnetrUpBlock: {"UnetrUpBlock.forward": ("2ddeb41517400b3c12be206f3061b627cd6b8aea5383a26b0eab110892fbd6c7",)},
}


def has_known_forward(module: nn.Module) -> bool:
    """Tell whether the forward pass of a module is one that lean training has a replacement for.

    A subclass may compute something else, so only the class itself counts. Where the source of the class is unknown,
    one warning for each class says that its forward pass stays.

    Args:
        module: any module.

    Example:
        >>> has_known_forward(SABlock(24, 4)), has_known_forward(nn.Linear(2, 2))
        (True, False)
    """
    kind = type(module)
    if kind not in _KNOWN:
        return False
    owner = sys.modules[kind.__module__]
    codes = tuple(getattr(operator.attrgetter(name)(owner), "__code__", None) for name in _KNOWN[kind])
    return _is_known(kind, codes)  # type: ignore[arg-type]  # mypy takes the __hash__ of instances for that of the class


@functools.cache  # reads the source once, and warns once
def _is_known(kind: type[nn.Module], codes: tuple[CodeType | None, ...]) -> bool:
    other = [
        name for (name, digests), code in zip(_KNOWN[kind].items(), codes, strict=True) if _digest(code) not in digests
    ]
    if other:
        _logger.warning(
            "lean training was written for %s of MONAI %s, and MONAI %s has another or has been patched: "
            "%s keeps its own forward pass, which takes more memory; update monai_essa or use one of these releases",
            other[0],
            _RELEASES,
            monai.__version__,
            kind.__name__,
        )
    return not other


def _digest(code: CodeType | None) -> str | None:
    """Return the sha256 of a function's source; None where there is no source."""
    try:
        # Of the code, not of the function: behind functools.wraps inspect would read the function that is wrapped.
        return None if code is None else sha256(inspect.getsource(code))
    except OSError:
        return None
