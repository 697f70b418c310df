# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Datalists, volume readers and the data check."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monai_essa.data.case_names import patient_of
    from monai_essa.data.case_search import CaseRules
    from monai_essa.data.class_labels import check_every_class, class_weights, classification_items, label_type
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
    from monai_essa.data.patch_share import patch_introduction, patch_line
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
    "label_type",
    "listed_label_map",
    "listed_patients",
    "load_datalist",
    "make_datalist",
    "npz_items",
    "nth_patients",
    "patch_introduction",
    "patch_line",
    "patient_of",
    "read_volume",
    "section_names",
    "split_patients",
    "unlabelled_items",
    "write_datalist",
]

# Imported at the first use, so that the commands for data lists need not wait for torch and MONAI.
_MODULE_OF = {
    "CaseRules": "case_search",
    "DataCheck": "data_check",
    "KeyedDataset": "keyed",
    "KeyedSampler": "keyed",
    "MappedDataset": "mapped_cache",
    "NPZReader": "npz_reader",
    "Problem": "data_problem",
    "SimpleITKReader": "simpleitk_reader",
    "VolumeReader": "volume_reader",
    "cached_dataset": "mapped_cache",
    "check_datalist": "data_check",
    "check_every_class": "class_labels",
    "class_weights": "class_labels",
    "classification_items": "class_labels",
    "hold_out": "splits",
    "label_type": "class_labels",
    "listed_label_map": "datalist_file",
    "listed_patients": "datalist_file",
    "load_datalist": "datalist_file",
    "make_datalist": "datalist_maker",
    "npz_items": "npz_images",
    "nth_patients": "splits",
    "patch_introduction": "patch_share",
    "patch_line": "patch_share",
    "patient_of": "case_names",
    "read_volume": "volume_file",
    "section_names": "datalist_file",
    "split_patients": "splits",
    "unlabelled_items": "datalist_file",
    "write_datalist": "datalist_maker",
}


if not TYPE_CHECKING:  # a type checker would take every name for one that this gives

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
