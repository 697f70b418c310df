# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Load weights from files into MONAI networks, and report what happened to every tensor."""

from __future__ import annotations

from monai_essa.anatomy.key_maps import KeyMap
from monai_essa.weights.families import Family
from monai_essa.weights.family_files import WeightCheck, check_weights, resolve_pretrained
from monai_essa.weights.fit import FirstLayer
from monai_essa.weights.load import load_weights
from monai_essa.weights.report import TensorEntry, WeightReport
from monai_essa.weights.zoo_bundle import read_zoo_bundle, zoo_network

__all__ = [
    "Family",
    "FirstLayer",
    "KeyMap",
    "TensorEntry",
    "WeightCheck",
    "WeightReport",
    "check_weights",
    "load_weights",
    "read_zoo_bundle",
    "resolve_pretrained",
    "zoo_network",
]
