# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Train an adapter over several hospitals that share no scans: a job of NVIDIA FLARE, what it sends, its average."""
