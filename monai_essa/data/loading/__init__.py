# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Load items for training: randomness keyed by a seed, and a cache on disk."""
