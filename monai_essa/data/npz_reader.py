# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Opens single images of NPZ files for MONAI's LoadImage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import ensure_tuple

from monai_essa.data.npz_images import is_npz_name, read_npz_image
from monai_essa.data.volume_meta import stack_channels
from monai_essa.data.volume_reader import array_and_meta

__all__ = ["NPZReader"]


class NPZReader(ImageReader):
    """Open single images of NPZ files by names such as ``"pneumonia.npz#train_images#12"``.

    The arrays of a file stay in memory, the last few of them. Axes are turned to (x, y) or (x, y, z), as ``LoadImaged``
    gives PNG and NIfTI files, so a network trained on the NPZ file is right for the same images as single files.
    There is no geometry in such a file: the affine is the identity.

    Example:
        >>> from monai.transforms import LoadImaged
        >>> load = LoadImaged(keys="image", reader="monai_essa.data.NPZReader", ensure_channel_first=True)
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Say whether every name is one of an image in an NPZ file."""
        return all(is_npz_name(name) for name in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> tuple[str, ...]:
        """Return the names: ``LoadImaged`` hides errors that come from here, and not those of :meth:`get_data`.

        Args:
            data: a name, or one name for each channel.
            kwargs: ignored; part of MONAI's interface.

        Returns:
            The names as text.
        """
        return tuple(str(name) for name in ensure_tuple(data))

    def get_data(self, img: Sequence[str]) -> tuple[np.ndarray, dict[str, Any]]:
        """Open the images that :meth:`read` named.

        Args:
            img: the names that :meth:`read` returned.

        Returns:
            The array, (x, y), (x, y, z), either with a channel axis at its end, or for several names
            (channel, x, y[, z]); and its metadata.

        Raises:
            FileNotFoundError: if a file does not exist.
            ValueError: as :func:`read_npz_image` does.
        """
        return array_and_meta(stack_channels([read_npz_image(name) for name in img], img))
