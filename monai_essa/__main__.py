# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`python -m monai_essa` is the command `monai-essa`."""

from __future__ import annotations

import sys

from monai_essa.cli import main

if __name__ == "__main__":
    sys.exit(main())
