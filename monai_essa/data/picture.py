# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""Pictures, the 2-D images that PNG, JPEG, TIFF and BMP files hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from monai.data import PILReader
from monai.utils import MetaKeys

from monai_essa.data.volume_meta import volume_meta

__all__ = ["PICTURE_SUFFIXES", "read_picture"]

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


def read_picture(path: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Read a picture by MONAI's PILReader, which inference uses too.

    Args:
        path: the file.

    Returns:
        The array, (x, y) or, with colours, (x, y, channel); and its metadata, the affine being the identity.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or no picture.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; correct the path in the datalist")
    reader = PILReader()
    try:
        array, _ = reader.get_data(reader.read(path))
    except (OSError, SyntaxError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: not a picture, or a damaged one ({reason}); copy the file again") from error
    meta = volume_meta(path, array.shape[:2], np.eye(4))
    return array, meta | ({MetaKeys.ORIGINAL_CHANNEL_DIM: -1} if array.ndim == 3 else {})
