# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The folder of studies: names, received labels and the grid that a label must share with its scan."""

from __future__ import annotations

import fnmatch
import json
import logging
import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from fastapi import HTTPException
from filelock import FileLock
from monailabel.datastore.local import LocalDatastore, LocalDatastoreModel
from monailabel.interfaces.datastore import DefaultLabelTag
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from monai_essa.data import read_volume
from monai_essa.data.readers.volume import SAME_GRID, corner_shift
from monai_essa.error_line import one_line
from monai_essa.files import write_text_whole
from monai_essa.label.requests import config_text, info_record
from monai_essa.label.sessions import upload_removed_if_refused
from monai_essa.outside import Check, MapOf, Nullable, Number, Record, Text, inside, shown

__all__ = ["SCORE", "UNREADABLE", "StudiesFolder", "check_plain_name", "label_problem"]

SCORE, UNREADABLE = "epistemic_entropy", "epistemic_unreadable"  # what a scoring notes about an image
_PLAIN = Text(r"[^/\\\x00-\x1f\x7f.$@%~][^/\\\x00-\x1f\x7f]*", 200)
_MOST_TOLD = 20
_NOTES: dict[str, Check] = {
    "strategy": MapOf(Record({"ts": Number(0)}, {"client_id": Nullable(Text())})),  # when each strategy served it
    SCORE: Nullable(Number(0)),
    UNREADABLE: Nullable(Text()),
}
_logger = logging.getLogger(__name__)
_NIFTI = (".nii", ".nii.gz")
_UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, MemoryError, ImageFileError, HeaderDataError)


def check_plain_name(kind: str, name: str) -> str:
    """Return a name that a client sent if it stays within the folder that it is used in.

    Args:
        kind: what the name is of, for the message.
        name: the name as sent.

    Raises:
        HTTPException: with status 400 for a path, ``..``, a hidden file, a name that is too long, or one that MONAI
            would evaluate in a configuration.
    """
    if not _is_plain(name):
        raise HTTPException(
            400,
            f"{kind} {shown(name)}: expected a plain name of at most {_PLAIN.longest} characters without '/', '\\' and "
            "a leading '.', '$', '@', '%' or '~'",
        )
    return name


class StudiesFolder(LocalDatastore):
    """Serve a local folder of images and labels; ids and tags that are not plain names are refused with status 400.

    Files with other names and links that lead out of the folder are left out, and the log says so. A folder that cannot
    be written to is served, but labels and uploads are refused.

    Args:
        path: the folder.
        extensions: patterns of the files that are images or labels.
        auto_reload: watch the folder.
        read_only: do not look for files that the folder's record does not name.
    """

    _refreshing = threading.Lock()  # of the class: the watcher of the folder starts before an instance is complete

    def __init__(
        self,
        path: str,
        extensions: Sequence[str] = ("*.nii.gz", "*.nii"),
        auto_reload: bool = False,
        read_only: bool = False,
    ) -> None:
        self.writable = not os.path.exists(path) or _can_write(path)
        self._left_out: set[str] = set()
        labels = "labels"
        if not self.writable:
            _logger.warning("%s cannot be written to: it is served, labels and uploads are refused", path)
            labels = _labels_of_read_only(Path(path))
            read_only = False  # so that the files are looked up; the list is kept in memory
        super().__init__(path, labels_dir=labels, extensions=extensions, auto_reload=auto_reload, read_only=read_only)
        if auto_reload:  # another process that writes the record renames a file to it
            self._handler.on_moved = lambda event: self._init_from_datastore_file()

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Copy an image into the folder."""
        with upload_removed_if_refused(image_filename):
            self._check_writable()
            image_id = image_id or self._to_id(os.path.basename(image_filename))[0]
            check_plain_name("image id", image_id)
            self._check_place(self._datastore.image_path(), image_id, image_filename)
            return super().add_image(image_id, image_filename, _checked_info(image_info))

    def remove_image(self, image_id: str) -> None:
        """Delete an image and its labels, at once rather than when the watcher of the folder notices."""
        self._check_writable()
        super().remove_image(self.known(image_id))
        self.refresh()

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Delete a label, at once as :meth:`remove_image` does."""
        self._check_writable()
        self.known_label(label_id, label_tag)
        super().remove_label(label_id, label_tag)
        self.refresh()

    def refresh(self) -> None:
        """Look at the files again, one thread at a time."""
        with self._refreshing:
            super().refresh()

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Copy a label into the folder of its tag.

        Raises:
            HTTPException: with status 400 for a name that is not a plain one, 404 for an unknown image, 422 for a label
                that does not lie on its image's voxels, and 409 where the folder cannot be written to.
        """
        with upload_removed_if_refused(label_filename):
            self._check_writable()
            self.known(image_id)
            tag = check_plain_name("label tag", str(getattr(label_tag, "value", label_tag)))
            self._check_place(self._datastore.label_path(tag), image_id, label_filename)
            problem = label_problem(Path(label_filename), Path(self.get_image_uri(image_id)), f"label of {image_id}")
            if problem:
                raise HTTPException(422, problem)
            return super().save_label(image_id, label_filename, label_tag, _checked_info(label_info))

    def get_image_uri(self, image_id: str) -> str:
        """Return the file of an image; "" for an unknown one, and for a link out of the folder."""
        return self._inside(super().get_image_uri(image_id))

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """Return the notes about an image, with its path."""
        self.known(image_id)
        info: dict[str, Any] = super().get_image_info(image_id)
        return info

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """Return the notes about a label."""
        self.known_label(label_id, label_tag)
        info: dict[str, Any] = super().get_label_info(label_id, label_tag)
        return info

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Return the file of a label, as :meth:`get_image_uri` does for an image."""
        return self._inside(super().get_label_uri(label_id, label_tag))

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """List the images with a final label, except for links out of the folder."""
        pairs = super().datalist(full_path)
        return [pair for pair in pairs if not full_path or all(self._inside(path) for path in pair.values())]

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Pack the labelled images.

        Raises:
            HTTPException: with status 404 if no image has a label.
        """
        if not self.datalist():
            raise HTTPException(404, "no image has a label with the tag 'final' yet: there is nothing to pack")
        return super().get_dataset_archive(limit_cases)

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Add notes about an image, after reading those that another process has saved meanwhile."""
        self.known(image_id)
        self._init_from_datastore_file()
        super().update_image_info(image_id, _checked_info(info))

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Add notes about a label."""
        self.known_label(label_id, label_tag)
        super().update_label_info(label_id, label_tag, _checked_info(info))

    def status(self) -> dict[str, Any]:
        """Count images and labels, and list in at most twenty lines what is left out or could not be read."""
        unreadable = [
            f"{name}: {entry.image.info[UNREADABLE]}"
            for name, entry in self._datastore.objects.items()
            if entry.image.info.get(UNREADABLE)
        ]
        problems = [
            *([] if self.writable else ["the folder cannot be written to"]),
            *sorted(self._left_out),
            *unreadable,
        ]
        return super().status() | {"problems": problems[:_MOST_TOLD]}

    def known(self, image_id: str) -> str:
        """Return the id of an image of the folder.

        Raises:
            HTTPException: with status 400 for a path, 404 for an unknown id.
        """
        check_plain_name("image id", image_id)
        if not self.get_image_uri(image_id):
            raise HTTPException(404, f"image id {shown(image_id)}: the studies folder has no such image")
        return image_id

    def known_label(self, label_id: str, label_tag: str) -> str:
        """Return the id of a label of the folder.

        Raises:
            HTTPException: as :meth:`known` says.
        """
        self.known(label_id)
        check_plain_name("label tag", str(getattr(label_tag, "value", label_tag)))
        if not self.get_label_uri(label_id, label_tag):
            raise HTTPException(404, f"image id {shown(label_id)} has no label with the tag {shown(str(label_tag))}")
        return label_id

    def _inside(self, path: str) -> str:
        """Return a real path, or "" for one outside the folder."""
        return path if Path(path).is_relative_to(os.path.realpath(self._datastore_path)) else ""

    def _check_place(self, folder: str, name: str, file: str) -> None:
        """Refuse a file of a kind that the folder does not serve, and one whose place is a link out of the folder."""
        extension = self._to_id(os.path.basename(file))[1]
        if not any(fnmatch.fnmatch(f"x{extension}", pattern) for pattern in self._extensions):
            kinds = ", ".join(pattern.removeprefix("*") for pattern in self._extensions)
            raise HTTPException(400, f"{shown(name + extension)}: expected a file of one of the kinds {kinds}")
        try:
            place = os.path.relpath(os.path.join(folder, name + extension), self._datastore_path)
            inside(Path(self._datastore_path), place, "studies")
        except ValueError as error:
            raise HTTPException(400, str(error)) from error

    def _check_writable(self) -> None:
        if not self.writable:
            raise HTTPException(409, f"{self._datastore_path} cannot be written to; labels and uploads are refused")

    def _list_files(self, path: str, patterns: Sequence[str]) -> dict[str, str]:
        """List the files that are served: those with plain names, except for links out of the folder."""
        found: dict[str, str] = super()._list_files(path, patterns)
        return {name: file for name, file in found.items() if self._is_served(path, name)}

    def _is_served(self, folder: str, name: str) -> bool:
        reason = "" if _is_plain(name) else "expected a plain name"
        if not self._inside(os.path.realpath(os.path.join(folder, name))):
            reason = "it is a link out of the folder"
        line = f"{shown(name)} is left out: {reason}"
        if reason and line not in self._left_out:
            self._left_out.add(line)
            _logger.warning(line)
        return not reason

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        """Read the folder's record again if it changed, and leave out what is not served.

        A damaged record is renamed, and a new one is made from the files.
        """
        config = Path(self._datastore_config_path)
        if not self.writable or not config.is_file() or config.stat().st_mtime == self._config_ts:
            return
        with FileLock(self._lock_file):
            if _is_damaged(config):
                kept = config.with_suffix(".damaged")
                _logger.warning("%s is damaged: moved to %s, and made anew from the files", config, kept.name)
                os.replace(config, kept)
        super()._init_from_datastore_file(throw_exception)
        self._leave_out()

    def _leave_out(self) -> None:
        """Remove the images and labels that are not served from the record."""
        record = self._datastore
        for name, entry in list(record.objects.items()):
            entry.labels = {
                tag: label
                for tag, label in entry.labels.items()
                if _is_plain(tag) and self._is_served(record.label_path(tag), name + label.ext)
            }
            if not self._is_served(record.image_path(), name + entry.image.ext):
                del record.objects[name]

    def _update_datastore_file(self, lock: bool = True) -> None:
        """Write the folder's record whole or not at all, for readers and after a power cut."""
        if not self.writable:
            return
        if lock:
            with FileLock(self._lock_file):
                self._update_datastore_file(lock=False)
            return
        record = self._datastore.model_dump(exclude={"base_path"})
        write_text_whole(Path(self._datastore_config_path), json.dumps(record, indent=2, default=str))
        self._config_ts = os.stat(self._datastore_config_path).st_mtime


def label_problem(label: Path, image: Path, where: str) -> str | None:
    """Read a label and return a line that says what is wrong with it; None if it fits its image.

    Args:
        label: the file as it was submitted.
        image: the volume that was labelled.
        where: how the line begins, such as "label of case_01".
    """
    try:
        voxels, affine = read_volume(label)
        shape, image_affine = _grid(image)
    except _UNREADABLE as error:
        return f"{where}: cannot be read as a label of {image.name}: {one_line(error)}"
    if voxels.shape[0] != 1:
        return f"{where}: expected one channel, got {voxels.shape[0]}; merge the segments into one map of ids"
    if voxels.shape[1:] != shape:
        return f"{where}: expected the shape of {image.name}, {shape}, got {voxels.shape[1:]}; draw it on that volume"
    if not np.isfinite(affine).all() or corner_shift(shape, image_affine, affine) > SAME_GRID:
        return (
            f"{where}: expected the place of {image.name}, got an affine that moves a corner by "
            f"{corner_shift(shape, image_affine, affine):.1f} voxels; shapes {shape} and {voxels.shape[1:]}"
        )
    return None


def _is_plain(name: str) -> bool:
    try:
        return bool(config_text(_PLAIN.check(name, "name"), "name"))
    except ValueError:
        return False


def _can_write(folder: str) -> bool:
    """Try to write: permissions do not show that a file system is mounted read-only."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _is_damaged(config: Path) -> bool:
    """Return whether there is a record of a folder that cannot be read."""
    try:
        LocalDatastoreModel.model_validate_json(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return config.is_file()
    return False


def _labels_of_read_only(folder: Path) -> str:
    """Return the folder of the labels, or an empty one elsewhere, since MONAI Label creates a missing one."""
    there = all((folder / "labels" / tag.value).is_dir() for tag in DefaultLabelTag)
    return "labels" if there else tempfile.mkdtemp()


def _checked_info(info: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return notes about an image or a label, those that this app and MONAI Label read in the form that they need.

    Raises:
        HTTPException: with status 400 for others.
    """
    try:
        notes = info_record().check(info or {}, "info")
        return {
            name: _NOTES[name].check(note, f"info.{name}") if name in _NOTES else note for name, note in notes.items()
        }
    except ValueError as error:
        raise HTTPException(400, str(error)) from error


def _grid(image: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Read the shape and the affine of a volume; for NIfTI from the header alone."""
    if image.name.lower().endswith(_NIFTI):
        volume: Any = nib.load(image)
        return tuple(volume.shape[:3]), volume.affine
    array, affine = read_volume(image)
    return array.shape[1:], affine
