# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Read, check, make and split data lists."""
