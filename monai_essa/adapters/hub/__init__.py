# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Adapters as folders in the conventions of the Hugging Face hub: the folder, its model card, peft's own format."""
