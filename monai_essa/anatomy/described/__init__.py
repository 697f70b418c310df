# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Encoders that MONAI does not have, described once by whoever uses them."""
