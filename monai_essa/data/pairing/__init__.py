# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Find out which files of a folder belong together: images and label maps, cases and patients."""
