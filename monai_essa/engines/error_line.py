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

"""Let a run that fails end with the one line that says why."""

from __future__ import annotations

import re
import sys
import traceback
from types import TracebackType

__all__ = ["root_cause", "show_cause_last"]

_NEXT = "\n\nThe above exception was the direct cause of the following exception:\n\n"
_KIND = re.compile(r"[\w.]+(Error|Exception|Warning): ")


def root_cause(error: BaseException) -> BaseException:
    """Go through the errors that MONAI raises over that of a component, to the one that says why.

    ``monai.bundle`` and ``monai.transforms`` put their own error over each error of a component, several times. An
    error that is raised elsewhere is the cause, even if it stands over another: it says what to do about that one.

    Example:
        >>> from monai.bundle.config_item import ConfigExpression
        >>> try:
        ...     ConfigExpression("$open('vit.pt')").evaluate()
        ... except RuntimeError as error:
        ...     root_cause(error)
        FileNotFoundError(2, 'No such file or directory')
    """
    while _is_raised_by_monai(error):
        earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if earlier is None:
            return error
        error = earlier
    return error


def show_cause_last() -> None:
    """From here on, print the cause of an uncaught error once more, as the last line after the traceback.

    The bundles call it first: between a wrong key and the end of MONAI's traceback lie some hundred lines. It sets
    ``sys.excepthook`` of this process.
    """
    sys.excepthook = _hook


def _is_raised_by_monai(error: BaseException) -> bool:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__", "").startswith("monai.")


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.__excepthook__(kind, error, trace)
    cause = root_cause(error)
    if cause is not error:
        sys.stderr.write(f"\nerror: {_line(cause)}\n")


def _line(cause: BaseException) -> str:
    text = str(cause)
    if "Original Traceback" in text:
        text = _line_of_worker(text)
    return " ".join(text.split()) or type(cause).__name__


def _line_of_worker(text: str) -> str:
    """An error in a worker process of a data loader comes as the text of its traceback, MONAI's errors included."""
    last_lines = [part.rstrip().rpartition("\n")[2] for part in text.split(_NEXT)]
    cause = next((line for line in reversed(last_lines) if "applying transform" not in line), last_lines[0])
    return _KIND.sub("", cause, count=1)
