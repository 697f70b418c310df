# Copyright (c) The monai_essa authors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""A value that turns something on or off: a command line gives text for ``false``, and text is true to Python."""

from __future__ import annotations

from typing import Any

__all__ = ["switch"]


def switch(name: str, value: Any) -> bool:
    """Give a value that is True or False, and refuse every other.

    Args:
        name: of the value, as the user gave it.
        value: what came.

    Returns:
        The same value.

    Raises:
        TypeError: if it is a text, as ``--name false`` of a bundle's command line gives, or a number.

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
