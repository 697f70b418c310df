# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Speed, memory and scale of the product beside its rivals: for developers, not in the wheel."""
