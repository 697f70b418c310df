# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Check values that come from outside: requests, records, lists, metadata and names of files.

Their author is unknown, so each value has a declared type, range and, for text, alphabet. A check returns the value or
raises one line that names the place, what was expected and what came. Nothing is evaluated or imported here, and the
module needs neither torch nor MONAI.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

__all__ = [
    "Check",
    "Choice",
    "Flag",
    "ListOf",
    "MapOf",
    "Nullable",
    "Number",
    "Record",
    "Text",
    "check_config_value",
    "check_pattern",
    "inside",
    "math_free",
    "printable",
    "shown",
    "switch",
]

NAME = r"[A-Za-z0-9][A-Za-z0-9 ._+()-]*"
"""Alphabet of a name that becomes a file, a site or a class label: no separators, no leading dot, no sigils."""
_MOST_SHOWN = 80
_MOST_DOUBLINGS = 24
_TOKENS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d*,?\d*\}|.", re.DOTALL)


class Check(Protocol):
    """Anything that says what a value may be."""

    def check(self, value: Any, where: str) -> Any:
        """Return the value, or raise a ValueError that names ``where``."""


@dataclass(frozen=True)
class Text:
    """Text of a limited length whose characters all come from an alphabet.

    Args:
        pattern: regular expression that the whole text matches; by default printable characters.
        longest: in characters.
    """

    pattern: str = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]*"
    longest: int = 256

    def check(self, value: Any, where: str) -> str:
        """Return the text.

        Example:
            >>> Text(NAME).check("site_a", "adapter")
            'site_a'
        """
        if not isinstance(value, str) or len(value) > self.longest or not re.fullmatch(self.pattern, value):
            raise ValueError(
                f"{where}: expected text of at most {self.longest} characters that matches {self.pattern}, "
                f"got {shown(value)}"
            )
        return value


@dataclass(frozen=True)
class Number:
    """A finite number within a range; a bool is not a number.

    Args:
        low: least value.
        high: greatest value.
        whole: whether it must be an integer. A float without a fraction passes, since browsers send such JSON.
    """

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False

    def check(self, value: Any, where: str) -> int | float:
        """Return the number.

        Example:
            >>> Number(1, 100, whole=True).check(10.0, "max_epochs")
            10
        """
        # Compared, not converted: an integer may be too large for a float, and NaN is below nothing.
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        if not fits or not self.low <= value <= self.high or (self.whole and value != int(value)):
            kind = "a whole number" if self.whole else "a number"
            raise ValueError(f"{where}: expected {kind} from {self.low:g} to {self.high:g}, got {shown(value)}")
        return int(value) if self.whole else value


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def check(self, value: Any, where: str) -> bool:
        """Return the flag; the text "false" is refused."""
        if not isinstance(value, bool):
            raise ValueError(f"{where}: expected true or false, got {shown(value)}")
        return value


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: Collection[Any]

    def check(self, value: Any, where: str) -> Any:
        """Return the value."""
        if not any(type(value) is type(known) and value == known for known in self.values):
            known = ", ".join(shown(known) for known in self.values)
            raise ValueError(f"{where}: expected one of {known}; got {shown(value)}")
        return value


@dataclass(frozen=True)
class Nullable:
    """A value that another check accepts, or None."""

    of: Check

    def check(self, value: Any, where: str) -> Any:
        """Return the value or None."""
        return None if value is None else self.of.check(value, where)


@dataclass(frozen=True)
class ListOf:
    """A list or tuple of values of one kind.

    Args:
        of: what each value may be.
        longest: greatest number of values.
        shortest: least number of values.
    """

    of: Check
    longest: int = 100_000
    shortest: int = 0

    def check(self, value: Any, where: str) -> list[Any]:
        """Return a new list."""
        if not isinstance(value, (list, tuple)) or not self.shortest <= len(value) <= self.longest:
            raise ValueError(
                f"{where}: expected a list of {self.shortest} to {self.longest} values, got {shown(value)}"
            )
        return [self.of.check(item, f"{where}[{number}]") for number, item in enumerate(value)]


@dataclass(frozen=True)
class MapOf:
    """A mapping whose names are not known beforehand.

    Args:
        of: what each value may be.
        names: what each name may be.
        longest: greatest number of names.
    """

    of: Check
    names: Check = field(default_factory=Text)
    longest: int = 100_000

    def check(self, value: Any, where: str) -> dict[str, Any]:
        """Return a new dictionary."""
        if not isinstance(value, Mapping) or len(value) > self.longest:
            raise ValueError(f"{where}: expected a mapping of at most {self.longest} names, got {shown(value)}")
        return {
            self.names.check(name, f"a name in {where}"): self.of.check(item, f"{where}.{shown(name)}")
            for name, item in value.items()
        }


@dataclass(frozen=True)
class Record:
    """A mapping with known names; any other name is refused.

    Args:
        required: what each value may be, by name; none may be missing.
        optional: the same for values that may be missing.
    """

    required: Mapping[str, Check]
    optional: Mapping[str, Check] = field(default_factory=dict)

    def check(self, value: Any, where: str) -> dict[str, Any]:
        """Return a new dictionary of the values.

        Example:
            >>> Record({"version": Number(1, 9)}).check({"version": 1, "note": "x"}, "history.json")
            Traceback (most recent call last):
            ValueError: history.json: unknown field 'note'; expected version
        """
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: expected a mapping with {', '.join(self.required)}, got {shown(value)}")
        known = {**self.required, **self.optional}
        for name in value:
            if name not in known:
                raise ValueError(f"{where}: unknown field {shown(name)}; expected {', '.join(known)}")
        for name in self.required:
            if name not in value:
                raise ValueError(f"{where}: the field '{name}' is missing")
        return {name: known[name].check(item, f"{where}, field '{name}'") for name, item in value.items()}


def check_config_value(value: Any, where: str) -> Any:
    """Return a plain value that may go into a configuration of MONAI, in which some text is code.

    MONAI's ConfigParser evaluates text that begins with ``$``, looks up ``@`` and ``%``, and builds a component from
    a mapping that names ``_target_``.

    Args:
        value: numbers, text, None, and lists and mappings of them.
        where: the place that the message names.

    Raises:
        ValueError: if the value, a part of it or a name in it would be more than data to a ConfigParser.

    Example:
        >>> check_config_value(["cuda:0", 3], "device")
        ['cuda:0', 3]
    """
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str) or name.startswith(("_", "$", "@", "%", "+", "~")) or "#" in name:
                raise ValueError(f"{where}: expected plain names, got {shown(name)}")
        return {name: check_config_value(item, f"{where}.{shown(name)}") for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [check_config_value(item, where) for item in value]
    if isinstance(value, str) and value.lstrip().startswith(("$", "@", "%")):
        raise ValueError(f"{where}: text that begins with '$', '@' or '%' is code to MONAI; got {shown(value)}")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"{where}: expected a plain value, got a {type(value).__name__}")


def check_pattern(pattern: Any, where: str) -> str:
    """Return a regular expression that cannot take exponential time on the names of a network.

    A repeated group (``(a+)+``) and back references are refused, and so is a pattern that could try more than some
    millions of ways: ``*`` and ``+`` count as 64 ways each, ``?`` and ``|`` as two.

    Args:
        pattern: the regular expression, still unchecked.
        where: the place that the message names.

    Raises:
        ValueError: if it is too long, not a regular expression, or may backtrack for ever.

    Example:
        >>> check_pattern(r"((encoder|decoder)\\d+|out)\\..*", "also_train")
        '((encoder|decoder)\\\\d+|out)\\\\..*'
    """
    if not isinstance(pattern, str) or len(pattern) > 1000:
        raise ValueError(f"{where}: expected a pattern of at most 1000 characters, got {shown(pattern)}")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{where}: {shown(pattern)} is not a regular expression: {error}") from error
    tokens = _TOKENS.findall(pattern)
    pairs = list(zip(["", *tokens], tokens, strict=False))  # (B, token) with B the one before
    group = any(before == ")" and (token in ("*", "+") or _is_count(token)) for before, token in pairs)
    reference = any(re.fullmatch(r"\\[1-9]", token) for token in tokens) or "(?P=" in pattern
    verbose = re.search(r"\(\?[A-Za-z]*x", pattern)  # blanks would hide that a group is repeated
    doublings = sum(_doublings(before, token) for before, token in pairs)
    if group or reference or verbose or doublings > _MOST_DOUBLINGS:
        raise ValueError(
            f"{where}: {shown(pattern)} may take for ever to match; expected no repeated group, no back reference, no "
            "flag 'x' and at most four parts with '*' or '+'"
        )
    return pattern


def inside(folder: Path, name: str, where: str) -> Path:
    """Return the path of a file below a folder; no separator or link in the name may lead out of it.

    Args:
        folder: where the file has to be.
        name: a relative path.
        where: the place that the message names.

    Raises:
        ValueError: if the name is absolute or empty, or the path lies outside the folder once links are followed.
    """
    unfit = not name or "\x00" in name or Path(name).is_absolute() or ".." in re.split(r"[/\\]", name)
    path = folder / name if not unfit else folder
    if unfit or not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{where}: expected the name of a file below {folder}, got {shown(name)}")
    return path


def math_free(text: str) -> str:
    r"""Return text that matplotlib draws as it is, without reading ``$...$`` as mathematics.

    Example:
        >>> math_free("$x_{$")
        '\\$x_{\\$'
    """
    return printable(text).replace("\\", "\\\\").replace("$", r"\$")


def printable(text: str) -> str:
    r"""Return text on one line, with an escape for every character that does not print.

    Line breaks of any kind (also U+0085 and U+2028, which end a line of YAML) and control codes of terminals or of the
    writing direction become visible.

    Example:
        >>> printable("CT\nbatch_size: 1")
        'CT\\nbatch_size: 1'
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def shown(value: Any) -> str:
    """Return a value as one short printable line for a message.

    Example:
        >>> shown("two\\nlines")
        "'two\\\\nlines'"
    """
    try:
        text = value[: _MOST_SHOWN * 2] if isinstance(value, (str, bytes)) else value
        line = ascii(text) if isinstance(text, str) and not text.isprintable() else repr(text)
    except (RecursionError, ValueError):
        line = f"a {type(value).__name__}"
    line = printable(line)
    return line if len(line) <= _MOST_SHOWN else line[: _MOST_SHOWN - 3] + "..."


def switch(name: str, value: Any) -> bool:
    """Return an argument of a constructor that must be True or False.

    Args:
        name: of the argument.
        value: the argument.

    Returns:
        The same value.

    Raises:
        TypeError: if it is text, which ``--name false`` on the command line of a bundle becomes, or a number.

    Example:
        >>> switch("deep", "false")
        Traceback (most recent call last):
        TypeError: deep: expected True or False, got 'false'; write it with a capital letter on a command line
    """
    if not isinstance(value, bool):
        raise TypeError(
            f"{name}: expected True or False, got {value!r}; write it with a capital letter on a command line"
        )
    return value


def _is_count(token: str) -> bool:
    return token.startswith("{") and len(token) > 2


def _doublings(before: str, token: str) -> int:
    """Return the base-2 logarithm of the number of ways that a token adds for a name of 64 characters."""
    if token in ("*", "+") or (_is_count(token) and "," in token):
        return 6
    if token == "|":
        return 1
    return int(token == "?" and before not in ("(", "*", "+", "?") and not _is_count(before))
