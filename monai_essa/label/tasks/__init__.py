# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The tasks of the MONAI Label app: inference, training, SSA and the choice of the next scan."""
