# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Load items for training: keyed by a seed, cached on the disk."""
