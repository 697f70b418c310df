# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Which files of a folder belong together: images with label maps, cases with patients."""
