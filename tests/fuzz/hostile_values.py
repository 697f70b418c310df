# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Values that nobody in good faith would send, and good values with a few of them put in."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]
"""Takes a value of a strategy: that of ``st.data()``. Strategies of whole files would be printed with their bytes."""
MARKER = Path(tempfile.gettempdir()) / f"monai_essa_fuzz_{os.getpid()}"
"""The file that planted code would make."""

_TOUCH = f"__import__('pathlib').Path({str(MARKER)!r}).touch()"
CODE = f"${_TOUCH}"
TEXTS = (
    *(CODE, f" {CODE}", f"$@network {CODE}", "@network", "%configs/train.yaml", "%train.yaml#network", "a@#b", "$x_{$"),
    *(f"CT\nbatch_size: {CODE}", f"CT\u2028spacing: {CODE}", f"x\x85y: {CODE}", f"# {CODE}", "a: b", "- a", "[", "{}"),
    *(
        "",
        " ",
        ".",
        "..",
        "~",
        "-",
        "--help",
        "../../x",
        "/etc/passwd",
        "/dev/zero",
        "a/../../b",
        "C:\\x",
        "\\\\host\\x",
    ),
    *("\x00", "a\x00b", "\r", "\x1b[2J", "\u202e", "\ud800", "\udcff", "\U0001f9e0", "\ufeff", "e\u0301", "x" * 5000),
    *("(a+)+$", "(.*)*b", "(", "(?P<a>.)(?P=a)", ".*" * 30, "[", "*", "nan", "inf", "1e400", "0x10", "true", "null"),
    *(
        "NaN",
        "1",
        "-1",
        "1_0",
        "\u0663",
        "a.npz#b#0",
        "a.npz#train_images#99999999999999999999",
        "x.nii.gz",
        "con",
        "*.*",
    ),
)
NUMBERS = (
    *(0, 1, 2, 3, 7, -1, 255, 65_536, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**400),
    *(0.5, -0.0, 0.99999994, 1e-320, 1e308, 1e300, float("inf"), float("-inf"), float("nan")),
)


def _odd(number: int) -> Any:
    """Make a value anew each time, since an edit changes it: what MONAI would build, or what is large or deep."""
    odd: tuple[Any, ...] = (
        {"_target_": "os.system", "command": f"touch {MARKER}"},
        {"_target_": "pathlib.Path.touch", "self": CODE},
        {"_target_": "builtins.exec", "_args_": [_TOUCH]},
        {"_requires_": [CODE], "_desc_": CODE, "_mode_": "debug"},
        _nested(40),
        _nested(300),
        [[]],
        [0] * 3000,
    )
    return odd[number]


def _nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": [value]}
    return value


def texts() -> st.SearchStrategy[str]:
    """Any text, mostly a planted one."""
    return (
        st.sampled_from(TEXTS)
        | st.text(max_size=12)
        | st.builds("{}{}".format, st.sampled_from(TEXTS), st.text("az09._"))
    )


def scalars() -> st.SearchStrategy[Any]:
    """What JSON holds that is no list or mapping, and numbers that it should not hold."""
    return st.one_of(st.none(), st.booleans(), st.sampled_from(NUMBERS), st.integers(), st.floats(), texts())


def values() -> st.SearchStrategy[Any]:
    """Whatever JSON holds."""
    return scalars() | _NESTED | st.integers(0, 7).map(_odd)


_NESTED: st.SearchStrategy[Any] = st.deferred(
    lambda: scalars() | st.lists(_NESTED, max_size=4) | st.dictionaries(texts(), _NESTED, max_size=3)
)


def edited(draw: Draw, good: Any, most: int = 3) -> Any:
    """A good value of lists and mappings in which some places hold other values, or are gone, renamed or new."""
    value = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, most))):
        value = _edit(draw, value)
    return value


def _edit(draw: Draw, value: Any) -> Any:
    places = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not places or draw(st.integers(0, 9)) == 0:
        return draw(values())
    place = draw(st.sampled_from(places))
    what = draw(st.sampled_from(["within", "within", "within", "replaced", "left out", "wrapped", "renamed", "new"]))
    if what == "within":
        value[place] = _edit(draw, value[place])
    elif what == "replaced":
        value[place] = draw(values())
    elif what == "left out":
        del value[place]
    elif what == "wrapped":
        value[place] = [value[place]]
    elif isinstance(value, list):
        value.insert(place, draw(values()))
    elif what == "renamed":
        value[draw(texts())] = value.pop(place)
    else:
        value[draw(texts())] = draw(values())
    return value


def damaged(draw: Draw, good: bytes, head: int = 400) -> bytes:
    """The bytes of a good file, of which some are others, gone or new, mostly in its head; or other bytes."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=64))
    content = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        near = min(head, len(content)) if draw(st.integers(0, 2)) else len(content)
        place = draw(st.integers(0, max(near - 1, 0)))
        length = draw(st.integers(0, 8))
        what = draw(st.sampled_from(["flipped", "other", "other", "cut", "gone", "new", "same", "twice"]))
        if what == "flipped" and content:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif what == "other":
            content[place : place + length] = draw(st.binary(min_size=length, max_size=length))
        elif what == "cut":
            del content[place:]
        elif what == "gone":
            del content[place : place + length]
        elif what == "same":
            content[place : place + length] = draw(st.sampled_from([b"\0", b"\xff", b"9"])) * length
        elif what == "twice":
            content += content[place:]
        else:
            content[place:place] = draw(st.binary(max_size=16))
    return bytes(content)
