# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Read images from files that nobody has vouched for: NIfTI, ITK formats, DICOM, npz and pictures."""
