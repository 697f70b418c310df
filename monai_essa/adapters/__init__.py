# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Adapt a network by a method, save the result as a file, and load it onto the base that it was made for."""
