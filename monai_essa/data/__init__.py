# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Datalists, volume readers and the data check."""

from __future__ import annotations

from monai_essa.data.case_names import patient_of
from monai_essa.data.case_search import CaseRules
from monai_essa.data.class_labels import check_every_class, class_weights, classification_items
from monai_essa.data.data_check import DataCheck, check_datalist
from monai_essa.data.data_problem import Problem
from monai_essa.data.datalist_file import (
    listed_label_map,
    listed_patients,
    load_datalist,
    section_names,
    unlabelled_items,
)
from monai_essa.data.datalist_maker import make_datalist, write_datalist
from monai_essa.data.keyed import KeyedDataset, KeyedSampler
from monai_essa.data.mapped_cache import MappedDataset, cached_dataset
from monai_essa.data.npz_images import npz_items
from monai_essa.data.npz_reader import NPZReader
from monai_essa.data.patch_share import patch_line
from monai_essa.data.simpleitk_reader import SimpleITKReader
from monai_essa.data.splits import hold_out, nth_patients, split_patients
from monai_essa.data.volume_file import read_volume
from monai_essa.data.volume_reader import VolumeReader

__all__ = [
    "CaseRules",
    "DataCheck",
    "KeyedDataset",
    "KeyedSampler",
    "MappedDataset",
    "NPZReader",
    "Problem",
    "SimpleITKReader",
    "VolumeReader",
    "cached_dataset",
    "check_datalist",
    "check_every_class",
    "class_weights",
    "classification_items",
    "hold_out",
    "listed_label_map",
    "listed_patients",
    "load_datalist",
    "make_datalist",
    "npz_items",
    "nth_patients",
    "patch_line",
    "patient_of",
    "read_volume",
    "section_names",
    "split_patients",
    "unlabelled_items",
    "write_datalist",
]
