# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What the names of volume files say: the case, the image that a label belongs to, the series and the patient."""

from __future__ import annotations

import re
from pathlib import PurePath

__all__ = [
    "VOLUME_SUFFIXES",
    "case_of",
    "folders_of",
    "is_label_path",
    "leading_id",
    "patient_of",
    "series_of",
    "subject_of",
    "volume_stem",
]

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm")

_LABEL_ENDING = re.compile(r"(?:^|[._-])(d?seg|segmentation|labels?|masks?|manual|gt)$", re.IGNORECASE)
_IMAGE_ENDING = re.compile(r"(?:^image|^img|[._-](image|img|0000))$", re.IGNORECASE)
_LABEL_FOLDER = re.compile(r"^(labels?|masks?|segmentations?|annotations?|seg|gt)(tr|ts|va)?$", re.IGNORECASE)
_CONTAINER = re.compile(
    r"^((images?|labels?|masks?|segmentations?|imgs?)(tr|ts|va)?|train(ing)?|test(ing)?|val(idation)?|nifti|dicom|data|anat)$",
    re.IGNORECASE,
)
_SERIES = re.compile(
    r"(?:^|[._-])((?:t1|t2|pd)(?:w|c|ce|gd|post|pre|star)?|flair|dwi|adc|swi|mprage|bold|cta?|mra?|pet|run-?\d+|acq-?\w+)$",
    re.IGNORECASE,
)
_SIDE_OR_VISIT = re.compile(
    r"[._-](l|r|lh|rh|left|right|ses-?\w+|visit-?\d*|v\d+|tp-?\d+|mr\d+|baseline|followup\d*)$", re.IGNORECASE
)
_BIDS_SUBJECT = re.compile(r"(?:^|[/_])(sub-[A-Za-z0-9]+)")


def volume_stem(path: str) -> str:
    """Return a file's name without the suffix of its volume format; a folder's name is kept whole.

    Example:
        >>> volume_stem("imagesTr/case_1.nii.gz")
        'case_1'
    """
    name = PurePath(path).name
    suffix = next((suffix for suffix in VOLUME_SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def is_label_path(path: str) -> bool:
    """Say whether a relative path looks like a label map: by its folder (labelsTr, masks) or ending (_seg, _label)."""
    folders = PurePath(path).parts[:-1]
    return bool(_LABEL_ENDING.search(volume_stem(path))) or any(_LABEL_FOLDER.match(folder) for folder in folders)


def case_of(path: str) -> str:
    """Return the name that an image and its label share: without ``_seg``, ``_label``, ``_image``, nnU-Net's ``_0000``.

    Example:
        >>> case_of("imagesTr/liver_7_0000.nii.gz"), case_of("liver_7-label.nrrd")
        ('liver_7', 'liver_7')
    """
    return _stripped(_stripped(volume_stem(path), _LABEL_ENDING), _IMAGE_ENDING)


def series_of(path: str) -> str:
    """Return the part of a file's name that tells the series of a study, in lower case; empty where there is none.

    Example:
        >>> series_of("sub-01/anat/sub-01_acq-mp_T1w.nii.gz")
        'acq-mp_t1w'
    """
    case = case_of(path)
    return case[len(_stripped(case, _SERIES)) :].lower().lstrip("._-")


def leading_id(path: str) -> str:
    """Return the part of a file's name that leads the series, the side and the visit; empty for a name like T1.nii.

    Example:
        >>> leading_id("IXI012-HH-1211_R.nii.gz"), leading_id("BraTS_001_t1ce.nii.gz")
        ('IXI012-HH-1211', 'BraTS_001')
    """
    name, before = case_of(path), None
    while name != before:
        before = name
        name = _stripped(_stripped(name, _SERIES), _SIDE_OR_VISIT)
    return name


def folders_of(path: str) -> tuple[str, ...]:
    """Return the folders of a relative path without those that only say what lies in them (imagesTr, labels, train).

    Example:
        >>> folders_of("imagesTr/siteA/p1.nii.gz")
        ('siteA',)
    """
    return tuple(folder for folder in PurePath(path).parts[:-1] if not _CONTAINER.match(folder))


def subject_of(path: str) -> str:
    """Return the BIDS subject in a path, as ``sub-07``; empty where there is none."""
    subject = _BIDS_SUBJECT.search(PurePath(path).as_posix())
    return subject[1] if subject else ""


def patient_of(path: str) -> str:
    """Guess the patient from a relative path: the BIDS subject, else the folders above with the name's leading id.

    The text holds nothing that the path does not.

    Args:
        path: relative to the data set's folder.

    Returns:
        The patient's name.

    Example:
        >>> patient_of("sub-07/ses-2/anat/sub-07_T1w.nii.gz"), patient_of("imagesTr/p3_L.nii.gz")
        ('sub-07', 'p3')
    """
    return subject_of(path) or "/".join([*folders_of(path), leading_id(path)]).strip("/") or volume_stem(path)


def _stripped(name: str, ending: re.Pattern[str]) -> str:
    while match := ending.search(name):
        name = name[: match.start()]
    return name
