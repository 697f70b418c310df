# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Plan a run for a site: facts of its scans, choices with reasons, trial steps, and the plan as a file."""
