# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Score a test set case by case: tables, and metrics with intervals over patients."""
