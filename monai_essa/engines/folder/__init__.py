# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a run keeps in its folder: its record, the fingerprints of what makes it, and its results."""
