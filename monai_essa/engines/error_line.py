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

import sys
from types import TracebackType

__all__ = ["root_cause", "show_cause_last"]


def root_cause(error: BaseException) -> BaseException:
    """Follow the chain of an error to the one that started it.

    ``monai.bundle`` raises its own error about the config item over each error of a component, several times.

    Example:
        >>> try:
        ...     try:
        ...         raise FileNotFoundError("no weight file at vit.pt")
        ...     except FileNotFoundError as error:
        ...         raise RuntimeError("Failed to instantiate component") from error
        ... except RuntimeError as error:
        ...     root_cause(error)
        FileNotFoundError('no weight file at vit.pt')
    """
    while (earlier := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
        error = earlier
    return error


def show_cause_last() -> None:
    """From here on, print the cause of an uncaught error once more, as the last line after the traceback.

    The bundles call it first: between a wrong key and the end of MONAI's traceback lie some hundred lines. It sets
    ``sys.excepthook`` of this process.
    """
    sys.excepthook = _hook


def _hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    sys.__excepthook__(kind, error, traceback)
    cause = root_cause(error)
    if cause is not error:
        sys.stderr.write(f"\nerror: {' '.join(str(cause).split()) or type(cause).__name__}\n")
