# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Average adapters of several sites, by their files alone."""
