# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A bundle's inference runs on given files, with the weights that are wanted, and keeps each file's geometry."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from monai_essa.bundling.predict import Prediction, predict
from monai_essa.bundling.prediction_files import result_names
from monai_essa.data import read_volume
from monai_essa.data.readers.folder import find_volumes

VALUES: dict[str, Any] = {"img_size": [32] * 3, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4, "feature_size": 4}
VALUES |= {"labels": {"background": 0, "ball": 1}}


@pytest.fixture
def with_weights() -> Callable[..., Prediction]:
    """The shipped segmentation bundle, made tiny, with the weights of a file."""

    def make(weights: Path, **more: Any) -> Prediction:
        return Prediction("essa_segmentation", VALUES | {"checkpoint": str(weights)}, **more)

    return make


def label_map(folder: Path) -> np.ndarray:
    (path,) = folder.rglob("*.nii.gz")
    return np.asarray(nib.load(path).dataobj)


def test_each_volume_gets_a_label_map_on_its_own_grid(
    with_weights, segmentation_runs, volumes: Path, tmp_path: Path
) -> None:
    inputs = [volumes / "case0.nii.gz", volumes / "case2.nii.gz"]
    written = predict(with_weights(segmentation_runs[0] / "model.pt"), inputs, tmp_path)
    assert [path.name for path in written] == ["case0_seg.nii.gz", "case2_seg.nii.gz"]
    for path, image in zip(written, inputs, strict=True):
        assert nib.load(path).shape == nib.load(image).shape
        assert set(np.unique(np.asarray(nib.load(path).dataobj))) <= {0, 1}


def test_an_adapter_on_its_base_predicts_what_its_merged_checkpoint_does(
    with_weights, segmentation_runs, volumes: Path, tmp_path: Path
) -> None:
    first, second = segmentation_runs
    case = [volumes / "case0.nii.gz"]
    predict(with_weights(first / "model.pt"), case, tmp_path / "a")
    predict(with_weights(second / "model.pt"), case, tmp_path / "b")
    # Site B's adapter on the weights of site A: the same frozen base, all that learns comes from the adapter.
    predict(with_weights(first / "model.pt", adapter=second / "adapter.safetensors"), case, tmp_path / "swapped")
    a, b, swapped = (label_map(tmp_path / name) for name in ("a", "b", "swapped"))
    assert not np.array_equal(a, b)
    assert np.array_equal(swapped, b)


def test_the_base_of_an_adapter_may_be_a_file_of_its_own(
    with_weights, segmentation_runs, files, volumes: Path, tmp_path: Path
) -> None:
    run, case = segmentation_runs[0], [volumes / "case0.nii.gz"]
    predict(with_weights(run / "model.pt"), case, tmp_path / "merged")
    prediction = with_weights(tmp_path / "none.pt", adapter=run / "adapter.safetensors", base=files.base)
    predict(prediction, case, tmp_path / "base")
    assert np.array_equal(label_map(tmp_path / "merged"), label_map(tmp_path / "base"))


def test_an_adapter_of_another_base_is_refused(with_weights, segmentation_runs, volumes: Path, tmp_path: Path) -> None:
    run = segmentation_runs[0]
    state = torch.load(run / "model.pt", weights_only=True)
    state["vit.norm.weight"] += 1
    torch.save(state, tmp_path / "other.pt")
    prediction = with_weights(tmp_path / "other.pt", adapter=run / "adapter.safetensors")
    with pytest.raises(ValueError, match="was trained on another base: 1 of"):
        predict(prediction, [volumes / "case0.nii.gz"], tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_missing_weights_are_named(with_weights, volumes: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.pt: no such weight file; put the bundle's model.pt there"):
        predict(with_weights(tmp_path / "nowhere.pt"), [volumes / "case0.nii.gz"], tmp_path / "out")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_other_formats_are_read_and_keep_their_geometry(
    suffix: str, with_weights, segmentation_runs, volumes: Path, tmp_path: Path
) -> None:
    image = sitk.ReadImage(str(volumes / "case1.nii.gz"))
    image.SetDirection([0, 0, -1, 1, 0, 0, 0, -1, 0])
    image.SetOrigin([7.0, -20.0, 3.0])
    sitk.WriteImage(image, str(tmp_path / f"scan{suffix}"))
    (written,) = predict(
        with_weights(segmentation_runs[0] / "model.pt"), [tmp_path / f"scan{suffix}"], tmp_path / "out"
    )
    array, affine = read_volume(tmp_path / f"scan{suffix}")
    assert nib.load(written).shape == array.shape[1:]
    assert np.allclose(nib.load(written).affine, affine, atol=1e-4)


def test_volumes_of_one_name_in_two_folders_do_not_meet(
    with_weights, segmentation_runs, volumes: Path, tmp_path: Path
) -> None:
    inputs = []
    for number in range(2):
        folder = tmp_path / "in" / f"p{number}"
        folder.mkdir(parents=True)
        inputs.append(Path(shutil.copy(volumes / f"case{number}.nii.gz", folder / "scan.nii.gz")))
    written = predict(with_weights(segmentation_runs[0] / "model.pt"), inputs, tmp_path / "out")
    assert [path.relative_to(tmp_path / "out").as_posix() for path in written] == [
        "p0/scan_seg.nii.gz",
        "p1/scan_seg.nii.gz",
    ]


def test_a_bundle_without_a_checkpoint_loader_is_refused(volumes: Path, tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "inference.yaml").write_text("dataset:\n  data: []\nrun: []\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has no CheckpointLoader"):
        predict(Prediction(str(tmp_path), {}), [volumes / "case0.nii.gz"], tmp_path / "out")


@pytest.mark.parametrize("name", ["dicom_mr_oblique_t1post", "nifti_psr_orientation", "nrrd_lps_flipped"])
def test_odd_files_are_segmented_on_their_own_grid(
    name: str, with_weights, segmentation_runs, data_dir: Path, tmp_path: Path
) -> None:
    path = find_volumes(data_dir / "odd-files" / name)[0].path
    prediction = with_weights(segmentation_runs[0] / "model.pt")
    coarse = Prediction(prediction.bundle, {**prediction.values, "spacing": [8.0, 8.0, 8.0]})
    (written,) = predict(coarse, [path], tmp_path)
    array, affine = read_volume(path)
    assert nib.load(written).shape == array.shape[1:]
    assert np.allclose(nib.load(written).affine, affine, atol=1e-3)


THRESHOLD = """
output_dir: eval
checkpoint: model.pt
spatial_dims: {dims}
in_channels: {channels}
network:
  _target_: torch.nn.Conv{dims}d
  in_channels: {channels}
  out_channels: 2
  kernel_size: 1
preprocessing:
  _target_: Compose
  transforms:
  - {{_target_: LoadImaged, keys: image, ensure_channel_first: true}}
  - {{_target_: Lambdad, keys: image, func: '$lambda x: x[..., 0] if x.ndim > @spatial_dims + 1 else x'}}
  - {{_target_: Orientationd, keys: image, axcodes: RAS, labels: null, _disabled_: $@spatial_dims == 2}}
dataset:
  _target_: Dataset
  data: []
  transform: '@preprocessing'
postprocessing:
  _target_: Compose
  transforms:
  - {{_target_: Invertd, keys: pred, transform: '@preprocessing', orig_keys: image, nearest_interp: false}}
  - {{_target_: AsDiscreted, keys: pred, argmax: true}}
  - {{_target_: SaveImaged, keys: pred, output_dir: '@output_dir', output_postfix: seg, output_dtype: $np.uint8,
      resample: false, separate_folder: false}}
imports: [$import numpy as np]
evaluator:
  _target_: SupervisedEvaluator
  device: $torch.device('cpu')
  val_data_loader: {{_target_: DataLoader, dataset: '@dataset', batch_size: 1}}
  network: '@network'
  postprocessing: '@postprocessing'
  val_handlers:
  - {{_target_: CheckpointLoader, load_path: '@checkpoint', load_dict: {{model: '@network'}}}}
run:
- $@evaluator.run()
"""


@pytest.fixture
def threshold(tmp_path: Path) -> Callable[..., Prediction]:
    """A bundle whose network calls the voxels over 100 foreground: its masks are known."""

    def make(dims: int = 3, channels: int = 1) -> Prediction:
        folder = tmp_path / f"threshold{dims}{channels}"
        (folder / "configs").mkdir(parents=True)
        text = THRESHOLD.format(dims=dims, channels=channels).replace("imports: [", "imports: [$import torch, ")
        (folder / "configs" / "inference.yaml").write_text(text, encoding="utf-8")
        weight = torch.zeros(2, channels, *[1] * dims)
        weight[1, 0] = 1
        torch.save({"weight": weight, "bias": torch.tensor([0.0, -100.0])}, folder / "model.pt")
        return Prediction(str(folder), {"checkpoint": str(folder / "model.pt")})

    return make


OBLIQUE = np.array([[0, -2.0, 0, 17], [0.6, 0, -6.4, -3], [0.8, 0, 4.8, 1e3 / 3], [0, 0, 0, 1]])
VOXELS = np.random.default_rng(0).integers(0, 200, (7, 6, 5)).astype(np.float32)


def saved(path: Path, voxels: np.ndarray = VOXELS, affine: np.ndarray = OBLIQUE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def dicom(folder: Path, voxels: np.ndarray, series: str, **tags: str) -> Path:
    folder.mkdir(parents=True)
    for z in range(voxels.shape[2]):
        image = sitk.GetImageFromArray(voxels[..., z].T.astype(np.int16)[None])
        image.SetSpacing([0.5, 0.75, 8.0])
        held = {"0008|0060": "CT", "0020|000e": series, "0020|000d": f"{series}.1", "0018|0050": "8.0"}
        held |= {"0020|0032": f"5\\6\\{2 * z}", "0020|0037": "1\\0\\0\\0\\1\\0"} | tags
        for tag, text in held.items():
            image.SetMetaData(tag, text)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(str(folder / f"{z:03}"))
        writer.Execute(image)
    return folder


def assert_mask_on_the_grid_of(path: Path, written: Path) -> None:
    array, affine = read_volume(path)
    mask = nib.load(written)
    assert mask.shape == array.shape[1:]
    assert np.array_equal(np.asarray(mask.dataobj), array[0] > 100)
    assert np.allclose(mask.affine, affine, rtol=0, atol=1e-4)
    assert np.allclose(mask.header.get_zooms(), np.linalg.norm(affine[:3, : mask.ndim], axis=0), atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 6, 5), (7, 6, 1), (7, 1, 1), (1, 6, 5)])
def test_a_mask_has_shape_affine_and_thickness_of_its_scan(shape: tuple[int, ...], threshold, tmp_path: Path) -> None:
    path = saved(tmp_path / "in" / "scan.nii.gz", VOXELS[: shape[0], : shape[1], : shape[2]])
    (written,) = predict(threshold(), [path], tmp_path / "out")
    assert_mask_on_the_grid_of(path, written)


def test_a_scan_in_another_unit_is_written_in_millimetres(threshold, tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOXELS, np.diag([500.0, 500, 2000, 1]))
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "scan.nii")
    (written,) = predict(threshold(), [tmp_path / "scan.nii"], tmp_path / "out")
    assert nib.load(written).header.get_zooms() == (0.5, 0.5, 2.0)
    assert_mask_on_the_grid_of(tmp_path / "scan.nii", written)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_single_dicom_slice_keeps_its_eight_millimetres(dims: int, threshold, tmp_path: Path) -> None:
    folder = dicom(tmp_path / "in" / "1.2.3.4", VOXELS[..., :1], "1.2.3.4")
    (written,) = predict(threshold(dims), [folder / "000"], tmp_path / "out")
    assert written.name == "000_seg.nii.gz"
    assert nib.load(written).header.get_zooms() == (0.5, 0.75, 8.0)
    assert_mask_on_the_grid_of(folder, written)


def test_dicom_folders_named_by_uid_keep_a_mask_each(threshold, tmp_path: Path) -> None:
    uids = ["1.2.840.113619.2.1", "1.2.840.113619.2.2"]
    folders = [dicom(tmp_path / "in" / uid, VOXELS[::step], uid) for uid, step in zip(uids, (1, -1), strict=True)]
    written = predict(threshold(), folders, tmp_path / "out")
    assert [path.name for path in written] == [f"{uid}_seg.nii.gz" for uid in uids]
    for folder, path in zip(folders, written, strict=True):
        assert_mask_on_the_grid_of(folder, path)


def test_names_that_share_a_beginning_do_not_meet(threshold, tmp_path: Path) -> None:
    names = ["2024.01.05.nii", "2024.01.06.nii", "scan.v1.nii.gz", "scan.v2.nii.gz", "p1.nii", "p1.nii.gz", "p1.nrrd"]
    paths = [tmp_path / "in" / name for name in names]
    for number, path in enumerate(paths):
        voxels = np.roll(VOXELS, number, 0)
        saved(path, voxels) if path.suffix != ".nrrd" else sitk.WriteImage(sitk.GetImageFromArray(voxels.T), str(path))
    written = predict(threshold(), paths, tmp_path / "out")
    assert len(written) == len(paths)
    results = result_names([str(path) for path in paths])
    for path in paths:
        assert_mask_on_the_grid_of(path, tmp_path / "out" / f"{results[str(path)]}_seg.nii.gz")


@pytest.mark.parametrize("name", ["a.png", "b.tif", "c.jpg"])
def test_a_picture_gets_a_mask_that_lies_on_it(name: str, threshold, tmp_path: Path) -> None:
    pixels = np.zeros((12, 20), np.uint8)
    pixels[2:5, 7:19] = 200
    Image.fromarray(pixels).save(tmp_path / name)
    (written,) = predict(threshold(2), [tmp_path / name], tmp_path / "out")
    assert written.name == f"{Path(name).stem}_seg.png"
    mask = np.asarray(Image.open(written))
    assert mask.shape == (12, 20) and np.array_equal(mask, pixels > 100)


def test_two_channels_in_two_files_are_one_image(threshold, tmp_path: Path) -> None:
    paths = tuple(str(saved(tmp_path / f"case_000{number}.nii", VOXELS + number)) for number in range(2))
    (written,) = predict(threshold(channels=2), [paths], tmp_path / "out")
    assert written.name == "case_0000_seg.nii.gz"
    assert_mask_on_the_grid_of(Path(paths[0]), written)


def test_an_image_of_an_npz_file_is_predicted(threshold, tmp_path: Path) -> None:
    np.savez(tmp_path / "scans.npz", test_images=np.stack([VOXELS, VOXELS[::-1]]))
    names = [f"{tmp_path / 'scans.npz'}#test_images#{index}" for index in range(2)]
    written = predict(threshold(), names, tmp_path / "out")
    assert [path.name for path in written] == ["scans_test_images_0_seg.nii.gz", "scans_test_images_1_seg.nii.gz"]
    assert np.array_equal(np.asarray(nib.load(written[1]).dataobj), VOXELS[::-1].transpose(2, 1, 0) > 100)


def _with(value: float) -> np.ndarray:
    voxels = VOXELS.copy()
    voxels[1, 2, 3] = value
    return voxels


@pytest.mark.parametrize(
    ("voxels", "reason"),
    [
        (_with(np.nan), "some voxels are NaN or infinite"),
        (_with(np.inf), "some voxels are NaN or infinite"),
        (np.stack([VOXELS, VOXELS], -1), "expected in_channels=1, got 2"),
        (VOXELS[..., 0], "expected 3 spatial dimensions"),
        (np.full_like(VOXELS, 7), "every voxel is 7"),
        (VOXELS.astype(np.complex64), "expected real numbers"),
    ],
)
def test_what_training_refuses_is_refused_before_the_first_image_is_computed(
    voxels: np.ndarray, reason: str, threshold, tmp_path: Path
) -> None:
    inputs = [saved(tmp_path / "in" / "good.nii"), saved(tmp_path / "in" / "odd.nii", voxels)]
    with pytest.raises(ValueError, match=f"odd.nii: {reason}") as caught:
        predict(threshold(), inputs, tmp_path / "new" / "out")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_an_earlier_result_is_never_touched(threshold, tmp_path: Path) -> None:
    path = saved(tmp_path / "in" / "scan.nii")
    (written,) = predict(threshold(), [path], tmp_path / "out")
    before = written.stat().st_mtime_ns, written.read_bytes()
    with pytest.raises(FileExistsError, match="out holds files already; give --output an empty or a new folder"):
        predict(threshold(channels=2), [path], tmp_path / "out")
    assert (written.stat().st_mtime_ns, written.read_bytes()) == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [written.name]


def test_a_run_that_stops_half_way_leaves_nothing(threshold, tmp_path: Path, monkeypatch) -> None:
    paths = [saved(tmp_path / "in" / name) for name in ("a.nii", "b.nii")]
    real = nib.save

    def full_disk(image: object, name: object) -> None:
        if str(name).endswith("b_seg.nii.gz"):
            raise OSError(28, "No space left on device")
        real(image, name)

    monkeypatch.setattr("monai.data.image_writer.nib.save", full_disk)
    with pytest.raises(RuntimeError):
        predict(threshold(), paths, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bundle_that_writes_too_few_files_is_an_error(threshold, tmp_path: Path) -> None:
    prediction = threshold()
    config = Path(prediction.bundle) / "configs" / "inference.yaml"
    text = config.read_text(encoding="utf-8").replace("batch_size: 1", "batch_size: 1, sampler: '$[0]'")
    config.write_text(text, encoding="utf-8")
    paths = [saved(tmp_path / "in" / name) for name in ("a.nii", "b.nii")]
    with pytest.raises(RuntimeError, match="expected a file for each of 2 images, got 1; none is kept"):
        predict(prediction, paths, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["$1+1", "@network", "%x", "a@##b", "a#1", 'it\'s; a "b"'])
def test_no_name_of_a_file_is_read_as_configuration(name: str, threshold, tmp_path: Path) -> None:
    path = saved(tmp_path / "in" / f"{name}.nii")
    (written,) = predict(threshold(), [path], tmp_path / "out")
    assert written.name == f"{name.replace('#', '_')}_seg.nii.gz"
