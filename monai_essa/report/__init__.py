# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a run shows: tables in the terminal, reconstruction pictures, figures and report.html.

`charts`, `panels` and `html` need the extra [report] (matplotlib, jinja2), which they import when called;
the other modules need no extra.
"""
