# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The data check: what would go wrong with a data list, a cohort or one volume."""
