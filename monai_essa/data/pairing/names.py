# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Read from the names of volume files the case, the image that a label belongs to, the series and the patient."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from types import MappingProxyType

__all__ = [
    "PICTURE_SUFFIXES",
    "VOLUME_SUFFIXES",
    "case_of",
    "folders_of",
    "is_label_path",
    "leading_id",
    "modality_of",
    "patient_of",
    "patients_of",
    "series_of",
    "split_of",
    "subject_of",
    "volume_stem",
    "words_of",
]

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".dcm")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

_LABEL = (
    r"[ad]?seg|segm|segmentations?|labels?|labelmaps?|mask|masks|msk|manual|gt|ground[ _-]?truth|truth|annotations?"
)
_LABEL_ENDING = re.compile(rf"(?:^|[ ._-])({_LABEL})$", re.IGNORECASE)
_LABEL_START = re.compile(rf"^({_LABEL})(?=[ ._-]|\d)", re.IGNORECASE)
_LABEL_FOLDER = re.compile(r"^(labels?|masks?|segmentations?|annotations?|seg|gt)(tr|ts|va)?$", re.IGNORECASE)
_IMAGE_ENDING = re.compile(r"(?:^image|^img|[._-](image|img|0000))$", re.IGNORECASE)
_CONTAINER = re.compile(
    r"^((images?|labels?|masks?|segmentations?|imgs?|volumes?|scans?|seg|gt)(tr|ts|va)?|train(ing)?|test(ing)?|"
    r"val(idation)?|nifti|dicom|data|anat|raw(data)?|derivatives|ct|mri?|pet|((training|testing)[ _-]?)?batch[ _-]?\d+|"
    r"(set|part|fold|split)[ _-]?\d+)$",
    re.IGNORECASE,
)
_SERIES = re.compile(
    r"(?:^|[._-])((?:t1|t2|pd)(?:w|n|c|f|ce|gd|kontrast|post|pre|star)?|cet1|flair|dwi|adc|swi|mprage|bold|"
    r"ct(?:res|a|c)?|mra?|mrdixon|pet|pt|suv|run-?\d+|acq-?\w+)$",
    re.IGNORECASE,
)
_MODALITY = re.compile(
    r"(?P<t1c>t1(?:c|ce|gd|post|kontrast)|cet1)|(?P<t1>(?:3d)?t1(?:w|n|pre)?|mprage)|(?P<flair>(?:3d)?flair|t2f)|"
    r"(?P<t2>t2(?:w|star)?)|(?P<pd>pdw?)|(?P<dwi>dwi|trace)|(?P<adc>adc)|(?P<swi>swi)|(?P<mra>mra)|(?P<mr>mri?)|"
    r"(?P<ct>ct(?:res|a|c)?)|(?P<pet>pet|pt|suv)",
    re.IGNORECASE,
)
_SIDE_OR_VISIT = re.compile(
    r"[ ._-](l|r|lh|rh|left|right|(?:session|sess|visit|tp|time(?:point)?|frame|phase|slice|v|mr)[._-]?\d*|"
    r"ses-?\w+|(?:dir|acq|rec)-\w+|baseline|follow-?up\d*|ed|es|4d)$",
    re.IGNORECASE,
)
_RECORDING = re.compile(  # after a name with a number only: brain_scan_1 and brain_scan_2 are two patients
    r"(?<=\d)[ ._-](?:scan|series|study|exam|date|echo|run|part|rec|fu|t)[._-]?\d+$|"
    r"(?<=\d)[ ._-](?:pre|post|sa|la|sax|lax)$",
    re.IGNORECASE,
)
_BIDS_SUBJECT = re.compile(r"(?:^|[/_])(sub-[A-Za-z0-9]+)")
_SPLIT = re.compile(r"(?:^|[a-z ._-])(?:(tr(?:ain(?:ing)?)?)|(ts|test(?:ing)?)|(va|val(?:idation)?))$", re.IGNORECASE)


def volume_stem(path: str) -> str:
    """Return a file's name without the suffix of its image format; a folder's name is kept whole.

    Example:
        >>> volume_stem("imagesTr/case_1.nii.gz")
        'case_1'
    """
    name = PurePath(path).name
    suffixes = (*VOLUME_SUFFIXES, *PICTURE_SUFFIXES)
    suffix = next((suffix for suffix in suffixes if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def is_label_path(path: str) -> bool:
    """Say whether a relative path looks like a label map: by folder (labelsTr, masks) or name (p1_seg, mask_p1)."""
    stem = volume_stem(path)
    by_name = _LABEL_ENDING.search(stem) or _LABEL_START.match(stem)
    return bool(by_name) or any(_LABEL_FOLDER.match(folder) for folder in PurePath(path).parts[:-1])


def case_of(path: str) -> str:
    """Return the name that an image and its label share: without ``_seg``, ``_label``, ``_image``, nnU-Net's ``_0000``.

    Example:
        >>> case_of("imagesTr/liver_7_0000.nii.gz"), case_of("liver_7-label.nrrd"), case_of("mask_liver_7.nii")
        ('liver_7', 'liver_7', 'liver_7')
    """
    stem = volume_stem(path)
    start = _LABEL_START.match(stem)
    return _stripped(_stripped(stem[start.end() if start else 0 :].lstrip(" ._-"), _LABEL_ENDING), _IMAGE_ENDING)


def patients_of(paths: Sequence[str], known: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """Return the patient of each path of a test set, guessed from the part below the folder that all paths share.

    Args:
        paths: of the images.
        known: patients by path, which count before a guess.

    Example:
        >>> patients_of(["/scans/p1_L.nii.gz", "/scans/p2.nii.gz"], {"/scans/p2.nii.gz": "Q"})
        ['p1', 'Q']
    """
    folder = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    return [known.get(path) or patient_of(os.path.relpath(path, folder)) for path in paths]


def series_of(path: str) -> str:
    """Return the part of a file's name that tells the series of a study, in lower case; empty if there is none.

    Example:
        >>> series_of("sub-01/anat/sub-01_acq-mp_T1w.nii.gz")
        'acq-mp_t1w'
    """
    case = case_of(path)
    return case[len(_stripped(case, _SERIES)) :].lower().lstrip("._-")


def modality_of(path: str) -> str:
    """Return the modality that a file's name ends in, equal for all its spellings; empty if it names none.

    Example:
        >>> modality_of("BraTS-GLI-00005-100-t1n.nii.gz"), modality_of("p1/FLAIR.nii"), modality_of("p1_4.nii")
        ('t1', 'flair', '')
    """
    found = (_MODALITY.fullmatch(word) for word in reversed(_split(volume_stem(path))))
    return next((match.lastgroup or "" for match in found if match), "")


def leading_id(path: str) -> str:
    """Return the part of a name before series, side, visit, frame and the like; empty for a name like T1.nii.

    Example:
        >>> leading_id("IXI012-HH-1211_R.nii.gz"), leading_id("patient007_frame01.nii.gz")
        ('IXI012-HH-1211', 'patient007')
    """
    name, before = case_of(path), None
    while name != before:
        before = name
        name = _stripped(_stripped(_stripped(name, _SERIES), _SIDE_OR_VISIT), _RECORDING).rstrip(" ._-")
    return name


def folders_of(path: str) -> tuple[str, ...]:
    """Return the folders of a relative path without those that only say what they hold (imagesTr, labels, train).

    Example:
        >>> folders_of("imagesTr/siteA/p1.nii.gz")
        ('siteA',)
    """
    return tuple(folder for folder in PurePath(path).parts[:-1] if not _CONTAINER.match(folder))


def split_of(path: str) -> str:
    """Return ``tr``, ``ts`` or ``va`` if a folder names the publisher's split, as imagesTs does; otherwise nothing.

    Example:
        >>> split_of("imagesTs/case_1.nii.gz"), split_of("case_1.nii.gz")
        ('ts', '')
    """
    for folder in PurePath(path).parts[:-1]:
        if _CONTAINER.match(folder) and (match := _SPLIT.search(folder)):
            return ("tr", "ts", "va")[(match.lastindex or 1) - 1]
    return ""


def words_of(path: str) -> tuple[str, ...]:
    """Return the words that tell a file from others: those of its folders that its name lacks, then its name's.

    Example:
        >>> words_of("case_00001/imaging.nii.gz"), words_of("p1/p1_FLAIR.nii.gz")
        (('case', '00001', 'imaging'), ('p1', 'flair'))
    """
    stem = _split(volume_stem(path))
    folders = [word for folder in folders_of(path) for word in _split(folder) if word not in stem]
    return (*dict.fromkeys(folders), *stem)


def subject_of(path: str) -> str:
    """Return the BIDS subject in a path, such as ``sub-07``; empty if there is none."""
    subject = _BIDS_SUBJECT.search(PurePath(path).as_posix())
    return subject[1] if subject else ""


def patient_of(path: str) -> str:
    """Guess the patient from a relative path: the BIDS subject, or the folders above with the leading id of the name.

    The result is made of parts of the path.

    Args:
        path: relative to the data set's folder.

    Returns:
        The patient's name.

    Example:
        >>> patient_of("sub-07/ses-2/anat/sub-07_T1w.nii.gz"), patient_of("imagesTr/p3_L.nii.gz")
        ('sub-07', 'p3')
    """
    return subject_of(path) or "/".join([*folders_of(path), leading_id(path)]).strip("/") or volume_stem(path)


def _split(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def _stripped(name: str, ending: re.Pattern[str]) -> str:
    while match := ending.search(name):
        name = name[: match.start()]
    return name
