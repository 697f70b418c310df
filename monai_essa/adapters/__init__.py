# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Adapt a network by a method, keep the result as a file, and bring it back to the base that it was made for."""
