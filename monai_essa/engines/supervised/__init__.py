# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a supervised stage can be given beside its loss: an average of the weights, an early end, several networks."""
