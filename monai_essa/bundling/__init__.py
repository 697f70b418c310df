# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Bundles: find and copy them, merge their weights, predict with them."""
