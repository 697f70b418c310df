# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Datalists, volume readers and the data check."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monai_essa.data.check.datalist import DataCheck, check_datalist
    from monai_essa.data.check.volumes import Problem
    from monai_essa.data.lists.class_balance import check_balanced_crops, image_loss_weights, voxel_loss_weights
    from monai_essa.data.lists.class_labels import check_every_class, class_weights, classification_items, label_type
    from monai_essa.data.lists.maker import make_datalist, write_datalist
    from monai_essa.data.lists.read import (
        listed_label_map,
        listed_patients,
        load_datalist,
        section_names,
        unlabelled_items,
    )
    from monai_essa.data.lists.splits import (
        fold_items,
        fold_section,
        hold_out,
        nth_patients,
        numbered_items,
        split_patients,
    )
    from monai_essa.data.loading.cache import MappedDataset, cached_dataset
    from monai_essa.data.loading.keyed import KeyedDataset, KeyedSampler, OwnCases
    from monai_essa.data.pairing.names import patient_of
    from monai_essa.data.pairing.search import CaseRules
    from monai_essa.data.readers.monai_readers import NPZReader, SimpleITKReader, VolumeReader
    from monai_essa.data.readers.npz import npz_items
    from monai_essa.data.readers.volume_file import read_volume

__all__ = [
    "CaseRules",
    "DataCheck",
    "KeyedDataset",
    "KeyedSampler",
    "MappedDataset",
    "NPZReader",
    "OwnCases",
    "Problem",
    "SimpleITKReader",
    "VolumeReader",
    "cached_dataset",
    "check_datalist",
    "check_every_class",
    "check_balanced_crops",
    "class_weights",
    "classification_items",
    "fold_items",
    "fold_section",
    "hold_out",
    "image_loss_weights",
    "label_type",
    "listed_label_map",
    "listed_patients",
    "load_datalist",
    "make_datalist",
    "npz_items",
    "nth_patients",
    "numbered_items",
    "patient_of",
    "read_volume",
    "section_names",
    "split_patients",
    "unlabelled_items",
    "voxel_loss_weights",
    "write_datalist",
]

# Imported at the first use, so that the commands for data lists need not wait for torch and MONAI.
_MODULE_OF = {
    "CaseRules": "pairing.search",
    "DataCheck": "check.datalist",
    "KeyedDataset": "loading.keyed",
    "KeyedSampler": "loading.keyed",
    "MappedDataset": "loading.cache",
    "NPZReader": "readers.monai_readers",
    "OwnCases": "loading.keyed",
    "Problem": "check.volumes",
    "SimpleITKReader": "readers.monai_readers",
    "VolumeReader": "readers.monai_readers",
    "cached_dataset": "loading.cache",
    "check_datalist": "check.datalist",
    "check_every_class": "lists.class_labels",
    "check_balanced_crops": "lists.class_balance",
    "class_weights": "lists.class_labels",
    "classification_items": "lists.class_labels",
    "fold_items": "lists.splits",
    "fold_section": "lists.splits",
    "hold_out": "lists.splits",
    "image_loss_weights": "lists.class_balance",
    "label_type": "lists.class_labels",
    "listed_label_map": "lists.read",
    "listed_patients": "lists.read",
    "load_datalist": "lists.read",
    "make_datalist": "lists.maker",
    "npz_items": "readers.npz",
    "nth_patients": "lists.splits",
    "numbered_items": "lists.splits",
    "patient_of": "pairing.names",
    "read_volume": "readers.volume_file",
    "section_names": "lists.read",
    "split_patients": "lists.splits",
    "unlabelled_items": "lists.read",
    "voxel_loss_weights": "lists.class_balance",
    "write_datalist": "lists.maker",
}


if not TYPE_CHECKING:  # a type checker would take every name for one that this gives

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
