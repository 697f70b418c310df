# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Data lists: read, checked, made, split by patient."""
