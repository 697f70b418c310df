# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Predict with a bundle and write results on the grid of each scan."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.handlers import ProgressBar
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.config import NdarrayOrTensor
from monai.data import MetaTensor, NibabelWriter
from monai.data.utils import to_affine_nd
from monai.transforms import SaveImaged
from monai.utils import ImageMetaKey, convert_data_type
from tqdm import tqdm

from monai_essa.bundling.finished_run import merge_adapter_file, network_of_config, save_weights
from monai_essa.bundling.folder import check_configs, find_bundle, find_config
from monai_essa.bundling.prediction_files import Image, first_path, result_names, whole_output
from monai_essa.data.pairing.names import PICTURE_SUFFIXES
from monai_essa.data.readers.npz import is_npz_name
from monai_essa.data.readers.volume import SAME_GRID, corner_shift
from monai_essa.data.readers.volume_file import channels_first, open_volumes
from monai_essa.data.transforms import CheckVolumed

__all__ = ["Prediction", "ResultNames", "ScanGridWriter", "predict", "save_label_maps"]

logger = logging.getLogger(__name__)
_INPUTS = "/inputs"  # MONAI names a result by its input's path below a folder, whether that exists or not
_NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True)
class Prediction:
    """Say what computes a prediction.

    Args:
        bundle: folder or name of a bundle with an inference config of MONAI's usual ids.
        values: values that replace those of the config, by id.
        adapter: an adapter file that is merged into the base weights; default: none.
        base: the weight file that the adapter was trained on; default: the bundle's.
    """

    bundle: str
    values: Mapping[str, Any]
    adapter: Path | None = None
    base: Path | None = None


@dataclass(frozen=True)
class ResultNames:
    """Name results for MONAI's SaveImaged, which by itself cuts a name at its last dot.

    Args:
        names: names of the results without suffix, by the path of the image.
    """

    names: Mapping[str, str]

    def __call__(self, meta: Mapping[str, Any], saver: object) -> dict[str, Any]:
        """Return the path that MONAI's FolderLayout derives the name from, with a suffix that it removes."""
        name = self.names[str(meta[ImageMetaKey.FILENAME_OR_OBJ])]
        return {"subject": f"{_INPUTS}/{name}.nii", "idx": meta.get(ImageMetaKey.PATCH_INDEX)}


def predict(prediction: Prediction, inputs: Sequence[Image | Path], output: Path) -> list[Path]:
    """Run inference; results are written by the bundle's own postprocessing.

    All images are opened and checked before the network runs, and the results appear in their folder only when all are
    complete.

    Args:
        prediction: the bundle, its values and its weights.
        inputs: files, DICOM folders or images of NPZ files, as absolute paths; a tuple names one for each channel.
        output: a new or empty folder for the results; the sub-folders of the inputs are kept.

    Returns:
        The files written.

    Raises:
        FileExistsError: if the output holds files already.
        FileNotFoundError: if the weights are missing.
        RuntimeError: if the bundle wrote fewer files than there are images.
        ValueError: if the bundle has no inference config, the adapter does not fit, or the network does not take an
            image, which the message names.
    """
    images = [str(image) if isinstance(image, Path) else image for image in inputs]
    names = result_names(images)
    with whole_output(output) as partial:
        savers = _run(prediction, images, names, partial)
        count = sum(path.is_file() for path in partial.rglob("*"))
        if savers and count < len(images):
            raise RuntimeError(f"{output}: expected a file for each of {len(images)} images, got {count}; none is kept")
    return sorted(path for path in output.rglob("*") if path.is_file())


def save_label_maps(items: Sequence[Mapping[str, Any]], folder: str | Path) -> SaveImaged:
    """Make a transform that writes ``pred``, a map of class ids, as NIfTI on the voxels of its image.

    Args:
        items: of a data list, with the key ``image``: a map has the name of its image, below the folder that all share.
        folder: of the label maps; made if missing.

    Returns:
        The transform, for the end of a postprocessing.

    Raises:
        ValueError: if two items begin with the same file.

    Example:
        >>> save = save_label_maps([{"image": "/scans/p1/ct.nii.gz"}, {"image": "/scans/p2/ct.nii.gz"}], "masks")
        >>> save.saver.fname_formatter.names
        {'/scans/p1/ct.nii.gz': 'p1/ct', '/scans/p2/ct.nii.gz': 'p2/ct'}
    """
    return SaveImaged(
        keys="pred",
        output_dir=folder,
        output_postfix="",
        output_ext=".nii.gz",
        output_dtype=np.uint8,
        data_root_dir=_INPUTS,
        separate_folder=False,
        print_log=False,
        writer=ScanGridWriter,
        output_name_formatter=ResultNames(result_names([_image(item["image"]) for item in items])),
    )


class ScanGridWriter(NibabelWriter):
    """Write NIfTI as MONAI's NibabelWriter does, but without its losses if a result lies on the voxels of its scan.

    A scan of one slice keeps its third axis and thickness, even if a 2-D network saw it without that axis, and the
    affine equals the scan's to the last digit. A result on another grid is written as it is.

    Example:
        >>> from monai.transforms import SaveImaged
        >>> save = SaveImaged(keys="pred", writer="monai_essa.bundling.predict.ScanGridWriter", resample=False)
    """

    def set_data_array(
        self, data_array: NdarrayOrTensor, channel_dim: int | None = 0, squeeze_end_dims: bool = True, **kwargs: Any
    ) -> None:
        """Set the voxels; ``channel_dim`` is ignored, since SaveImage passes None for a slice with 3-D metadata.

        Args:
            data_array: (C, spatial...).
            channel_dim: ignored; MONAI's transforms put channels first.
            squeeze_end_dims: ignored.
            kwargs: ignored.
        """
        super().set_data_array(data_array, channel_dim=0, squeeze_end_dims=False, spatial_ndim=3)

    def set_metadata(self, meta_dict: Mapping | None, resample: bool = True, **options: Any) -> None:
        """Set the geometry, and resample to the grid of the scan if requested.

        Args:
            meta_dict: affine, original_affine and spatial_shape.
            resample: whether to resample to the original affine; default: yes.
            options: those of MONAI's writer.
        """
        original, affine, shape = self.get_meta_info(meta_dict)
        if resample:
            super().set_metadata(meta_dict, True, **options)
        else:
            self.affine = affine
            self.output_dtype = self.output_dtype or getattr(self.data_obj, "dtype", None)
        array = np.asarray(convert_data_type(self.data_obj, np.ndarray)[0])  # (x, y, z, C)
        rank = 3 if shape is None else len(shape)
        if array.shape[2] == 1 and rank == 2:
            array = array[:, :, 0]
        self.data_obj = array[..., 0] if array.shape[-1] == 1 else array
        if original is not None and self.affine is not None and shape is not None:
            self._take_grid_of_scan(np.asarray(original, dtype=float), tuple(int(length) for length in shape))

    def _take_grid_of_scan(self, original: np.ndarray, shape: tuple[int, ...]) -> None:
        affine = np.asarray(convert_data_type(self.affine, np.ndarray)[0], dtype=float)
        if len(affine) < len(original):  # the part of the affine that is left after a transform removed the third axis
            kept = np.ix_([0, 1, 3], [0, 1, 3])
            affine, plane = original.copy(), affine
            affine[kept] = plane
        spatial = self.data_obj.shape[: len(shape)]
        if spatial == shape and corner_shift(shape, to_affine_nd(3, original), to_affine_nd(3, affine)) <= SAME_GRID:
            self.affine = original


def _image(paths: Any) -> Image:
    return paths if isinstance(paths, str) else tuple(paths)


def _run(prediction: Prediction, images: Sequence[Image], names: Mapping[str, str], output: Path) -> int:
    """Run the config and return the number of its components that save an image."""
    config = find_config(prediction.bundle, ("inference",))
    check_configs([config, *config.parent.glob("metadata.json")])
    values = {"bundle_root": str(find_bundle(prediction.bundle)), "output_dir": str(output)} | dict(prediction.values)
    # The bundle's logging.conf would print every step between the lines of the progress bar.
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)
    workflow = ConfigWorkflow(config_file=str(config), workflow_type="infer", logging_file=False, **values)
    # The parser does not look into a tuple; in a list it would take a "#" or an "@" of a path for a reference.
    workflow.parser["dataset#data"] = tuple(
        {"image": image if isinstance(image, str) else list(image)} for image in images
    )
    savers = _adjust(workflow.parser, names, output)

    with tempfile.TemporaryDirectory() as folder:
        weights = _weights(workflow.parser)
        if prediction.adapter is not None:
            network = network_of_config([config], values)
            plain, _ = merge_adapter_file(network, prediction.base or weights, prediction.adapter)
            weights = Path(folder) / "model.pt"
            save_weights(plain, weights)
        _use_weights(workflow.parser, weights)
        _check_images(workflow.parser, images)
        workflow.initialize()
        workflow.evaluator.logger.disabled = True  # it would print an error twice before the one line of the command
        ProgressBar(desc="predict", disable=None).attach(workflow.evaluator)
        workflow.run()
        workflow.finalize()
    return savers


def _adjust(parser: ConfigParser, names: Mapping[str, str], output: Path) -> int:
    """Make the config read with our reader, which opens more formats, and write under our names on the scan's grid."""
    for _, loader in _components(parser.config, "LoadImaged"):
        loader.setdefault("reader", "monai_essa.data.VolumeReader")
    flat = parser.get("spatial_dims") == 2  # or else an NPZ file may hold volumes
    pictures = all(path.lower().endswith(PICTURE_SUFFIXES) or (flat and is_npz_name(path)) for path in names)
    savers = [saver for _, saver in _components(parser.config, "SaveImaged") if not saver.get("_disabled_")]
    for saver in savers:
        saver["output_name_formatter"], saver["data_root_dir"] = ResultNames(names), _INPUTS
        saver.setdefault("print_log", False)
        extension = saver.get("output_ext", ".nii.gz")
        if extension == "@output_ext":
            extension = parser.get("output_ext")
        if extension in (*_NIFTI, ".png") and "writer" not in saver:
            scan = {"writer": ScanGridWriter, "output_ext": extension if extension in _NIFTI else ".nii.gz"}
            saver.update({"output_ext": ".png"} if pictures else scan)
    return len(savers)


def _check_images(parser: ConfigParser, images: Sequence[Image]) -> None:
    """Refuse images that training would refuse, before the network runs."""
    channels, dims = _network_input(parser)
    for image in tqdm(images, "checking", disable=None):
        volume = open_volumes(image)
        for note in volume.notes:
            logger.warning(f"{first_path(image)}: {note}")
        array = channels_first(volume)
        if dims == 2 and array.ndim == 4 and array.shape[-1] == 1:  # a single slice of a volume
            array = array[..., 0]
        check = CheckVolumed("image", in_channels=channels, spatial_dims=dims or array.ndim - 1)
        meta = {ImageMetaKey.FILENAME_OR_OBJ: first_path(image)}
        check({"image": MetaTensor(torch.as_tensor(array.astype("float32")), meta=meta)})


def _network_input(parser: ConfigParser) -> tuple[int | None, int | None]:
    """Return the channels and dimensions of the network's input by the config, else by the metadata, else None."""
    metadata = parser.get("_meta_") or {}
    image = metadata.get("network_data_format", {}).get("inputs", {}).get("image", {})
    size = _value(parser, "img_size", image.get("spatial_shape"))
    dims = _value(parser, "spatial_dims", len(size) if isinstance(size, list | tuple) else None)
    channels = _value(parser, "in_channels", image.get("num_channels"))
    return channels if isinstance(channels, int) else None, dims if dims in (2, 3) else None


def _value(parser: ConfigParser, name: str, default: Any) -> Any:
    return default if parser.get(name) is None else parser.get_parsed_content(name)


def _weights(parser: ConfigParser) -> Path:
    loaders = list(_components(parser.config, "CheckpointLoader"))
    if not loaders:
        raise ValueError("the inference config has no CheckpointLoader among its handlers; add one")
    parser.parse(reset=True)
    return Path(parser.get_parsed_content(f"{loaders[0][0]}#load_path"))


def _use_weights(parser: ConfigParser, weights: Path) -> None:
    if not weights.is_file():
        msg = f"{weights}: no such weight file; put the bundle's model.pt there, or give --args checkpoint=FILE"
        raise FileNotFoundError(msg)
    for _, loader in _components(parser.config, "CheckpointLoader"):
        loader["load_path"] = weights  # a path, not text, which the parser would read for references


def _components(config: Any, name: str, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the components of a class with their ids, at any depth of a config."""
    if isinstance(config, dict) and str(config.get("_target_", "")).rpartition(".")[2] == name:
        yield place, config
    parts = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in parts:
        yield from _components(value, name, f"{place}#{key}" if place else str(key))
