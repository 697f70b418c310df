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

"""An exception as one line: the line that helps, without the wrappers that MONAI and torch put around it."""

from __future__ import annotations

import re

import yaml

__all__ = ["one_line"]

# MONAI's config parser and transforms raise these from the error that says what is wrong.
_WRAPPERS = ("Failed to evaluate", "Failed to instantiate", "applying transform")
_IN_WORKER = re.compile(r"^Caught \w+ in DataLoader worker")
_RAISED = re.compile(r"^(?:[\w.]+\.)?\w+(?:Error|Exception): (.+)$", re.MULTILINE)


def one_line(error: BaseException) -> str:
    """Give the line that tells the user what was expected, what came and what to do.

    Args:
        error: as it was caught.

    Returns:
        The first line of the innermost message that no wrapper wrote; the class name where there is no message.

    Example:
        >>> one_line(KeyError("no such section"))
        'no such section'
    """
    while _is_wrapper(_message(error)) and error.__cause__ is not None:
        error = error.__cause__
    message = _message(error)
    if isinstance(error, yaml.YAMLError):  # its place in the file stands on lines of its own
        return " ".join(message.split())
    if _IN_WORKER.match(message):
        raised = [line for line in _RAISED.findall(message) if not _is_wrapper(line)]
        message = raised[-1] if raised else message
    lines = message.strip().splitlines() or [type(error).__name__]
    # The bare key of a KeyError says too little without its name.
    return f"KeyError: {lines[0]}" if isinstance(error, KeyError) and " " not in lines[0] else lines[0]


def _message(error: BaseException) -> str:
    # str() of a KeyError is the repr() of its key.
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def _is_wrapper(message: str) -> bool:
    return message.startswith(_WRAPPERS)
