# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Probe a weight file on a site's own scans, preprocessed as the bundle that would use it preprocesses them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from monai.bundle import ConfigParser
from monai.transforms import Compose, SpatialPad
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from monai_essa.anatomy import encoder_view
from monai_essa.data.lists.read import listed_patients
from monai_essa.data.loading.keyed import key
from monai_essa.data.pairing.names import patient_of
from monai_essa.evaluation.baselines.neighbours import NeighbourProbe, compare_neighbours
from monai_essa.evaluation.probe import (
    LEAST_PATIENTS,
    ProbeResult,
    pooled_features,
    probe_features,
    raw_features,
    same_place_found,
)
from monai_essa.pretext.distillation.views import encode_tokens, in_eval
from monai_essa.weights import load_weights

__all__ = [
    "Crops",
    "WeightsProbe",
    "probe_neighbours",
    "probe_networks",
    "probe_weights",
    "random_network",
    "scan_crops",
]

_MOST_CROPS = 64
_MOST_OF_A_PATIENT = 3
_RANDOM_NETWORKS = 5
_CLASS, _SHARES, _POSITION = "the class", "the share of each label", "the position"
_MOST_NEIGHBOURS = 600  # crops for k-NN
_MOST_ROWS = 4096  # of them or their patches
_ASIDE = 4  # a second view is moved by a quarter of the crop


@dataclass(frozen=True)
class Crops:
    """Crops of scans and what there is to predict about them.

    Attributes:
        images: K crops (C, spatial...).
        aside: the same places, moved by a quarter of the crop where the scan has room.
        targets: (K, T): the class or classes of an image, the share of each label in a crop, or, without labels, its
            position in the scan.
        patients: of each crop.
        question: the name of the targets.
        maps: the labels (spatial...) of each crop, where the scans have label maps.
    """

    images: list[Tensor]
    aside: list[Tensor]
    targets: np.ndarray
    patients: list[str]
    question: str
    maps: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class WeightsProbe:
    """The probe of a weight file.

    Attributes:
        result: weights against random networks and raw voxels.
        found: how often the second view of a place is the nearest of all: by the weights, by random networks.
        seconds: how long it took.
    """

    result: ProbeResult
    found: tuple[float, float]
    seconds: float

    def __str__(self) -> str:
        lines = [f"time: {self.seconds:.0f} s"]
        if self.result.patients >= LEAST_PATIENTS:
            own, random = self.found
            lines.append(
                f"neighbourhood: the nearest view is of the same place in {own:.0%}, at random in {random:.0%}"
            )
        return "\n".join([*lines, str(self.result)])


def probe_weights(parser: ConfigParser, path: str | Path, seed: int = 0) -> WeightsProbe:
    """Probe a weight file on the scans of a training config, with that config's network and preprocessing.

    Args:
        parser: of a train.yaml of this library's bundles. Read are the network (``encoder_def`` or ``network_def``),
            ``training_items``, ``datalist``, ``section``, ``img_size``, ``device`` and the transforms ``load``,
            ``orient`` and ``intensity``.
        path: the weight file, as for :func:`monai_essa.load_weights`.
        seed: of the choice of patients, the places of the crops and the random networks.

    Returns:
        The probe.

    Raises:
        FileNotFoundError: if the weight file or a scan does not exist.
        ValueError: if the file does not fit the network, or a scan cannot be read.
    """
    started = time.monotonic()
    pretrained = _loaded(parser, path)
    crops = _site_crops(parser, seed, _MOST_CROPS)
    if len(set(crops.patients)) < LEAST_PATIENTS:
        result, found = ProbeResult(crops.question, len(set(crops.patients)), len(crops.images)), (0.0, 0.0)
    else:
        random = (random_network(parser, key(seed, "network", number)) for number in range(_RANDOM_NETWORKS))
        result, found = probe_networks(pretrained, random, crops)
    return WeightsProbe(result, found, time.monotonic() - started)


def probe_neighbours(parser: ConfigParser, before: str | Path, after: str | Path, seed: int = 0) -> NeighbourProbe:
    """Compare two encoders by k-NN on a site's labels: the base and what an adaptation has made of it.

    Of scans with a class, the image token is classified; of scans with a label map, each patch by the label in its
    middle. At most 600 patients and 4,096 patches are drawn.

    Args:
        parser: as for :func:`probe_weights`, of essa_classification or essa_segmentation.
        before: weight file of the base.
        after: weight file of the adapted encoder, the ``model.pt`` of its run.
        seed: of the choice.

    Returns:
        The probe.

    Raises:
        FileNotFoundError: if a weight file or a scan does not exist.
        ValueError: if the scans have no labels, several classes each, or too few patients.
    """
    crops = _site_crops(parser, seed, _MOST_NEIGHBOURS)
    if not crops.images:
        raise ValueError(f"expected {LEAST_PATIENTS} patients or more for k-NN, got {len(crops.patients)}")
    if crops.question == _POSITION or (crops.targets.sum(axis=1) != 1).any() and not crops.maps:
        raise ValueError("k-NN needs a class or a label map of each scan; take --bundle essa_classification")
    rows = [_neighbour_rows(_loaded(parser, path), crops) for path in (before, after)]
    features, (classes, patients) = [row[0] for row in rows], rows[0][1:]
    chosen = np.random.default_rng(seed).permutation(len(classes))[:_MOST_ROWS]
    own, other = (each[chosen] for each in features)
    return compare_neighbours(own, other, classes[chosen], [patients[number] for number in chosen])


def random_network(parser: ConfigParser, seed: int = 0) -> nn.Module:
    """Build the encoder of a training config (``encoder_def``, else ``network_def``) with random weights of a seed.

    The config is parsed anew, since a definition may hold a network that was built before.
    """
    parser.parse(reset=True)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network: nn.Module = parser.get_parsed_content("encoder_def" if "encoder_def" in parser else "network_def")
    return network.to(parser.get_parsed_content("device"))


def probe_networks(
    pretrained: nn.Module, random: Iterable[nn.Module], crops: Crops
) -> tuple[ProbeResult, tuple[float, float]]:
    """Compare a pretrained network with random ones on crops.

    Args:
        pretrained: a network whose encoder is known.
        random: at least 3 networks of the same class with random weights; one is held at a time.
        crops: of :func:`scan_crops`.

    Returns:
        The comparison, and how often the second view of a place is the nearest of all, by the pretrained network and
        by the random ones.
    """
    own, found = _features(pretrained, crops)
    of_random = [_features(network, crops) for network in random]
    features = [each for each, _ in of_random]
    result = probe_features(
        own, features, raw_features(crops.images), crops.targets, crops.patients, question=crops.question
    )
    return result, (found, float(np.mean([each for _, each in of_random])))


def scan_crops(
    items: Sequence[Mapping[str, Any]],
    transform: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    img_size: Sequence[int],
    patients: Mapping[str, str] = MappingProxyType({}),
    seed: int = 0,
    most: int = _MOST_CROPS,
) -> Crops:
    """Cut some crops, at most 3 of a patient, one scan of each patient.

    Args:
        items: of a data list, with ``image`` and perhaps ``label``.
        transform: reads an item; its ``image`` is (C, spatial...), its ``label`` a class, several classes or a map.
        img_size: voxels of a crop along each axis; smaller scans are padded with 0.
        patients: of the images, by path; default: guessed from the names of files.
        seed: of the choice.
        most: number of crops.

    Returns:
        The crops. With fewer than 20 patients it is empty but for their names: nothing is read.

    Raises:
        ValueError: if there are no items.
    """
    of_patient = _by_patient(items, patients)
    chosen = sorted(of_patient, key=lambda name: key(seed, "patient", name))[:most]
    if len(chosen) < LEAST_PATIENTS:
        return Crops([], [], np.empty((0, 0)), chosen, _CLASS)
    each = min(_MOST_OF_A_PATIENT, most // len(chosen))
    drawn, question = [], _CLASS
    for name in chosen:
        scans = of_patient[name]
        scan = transform(scans[key(seed, "scan", name) % len(scans)])
        question = _question(scan)
        for number in range(each):
            drawn.append(_draw(scan, question, img_size, np.random.default_rng(key(seed, name, number))))
    images, aside, targets = zip(*drawn, strict=True)
    of_crops = [name for name in chosen for _ in range(each)]
    maps = [torch.from_numpy(target.reshape(tuple(img_size))) for target in targets] if question == _SHARES else []
    return Crops(list(images), list(aside), _columns(np.stack(targets), question), of_crops, question, maps)


def _loaded(parser: ConfigParser, path: str | Path) -> nn.Module:
    network = random_network(parser)
    load_weights(network, path)
    return network


def _site_crops(parser: ConfigParser, seed: int, most: int) -> Crops:
    """Return crops of the scans of a training config, preprocessed as it says."""
    names = ("load", "orient", "intensity")
    transform = Compose([step for name in names for step in parser.get_parsed_content(name)])
    datalist = parser.get_parsed_content("datalist")
    patients = listed_patients(datalist, parser.get_parsed_content("section")) if str(datalist) else {}
    items = parser.get_parsed_content("training_items")
    return scan_crops(items, transform, parser.get_parsed_content("img_size"), patients, seed, most)


@torch.no_grad()
def _neighbour_rows(network: nn.Module, crops: Crops) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return features, classes and patients: a row for each crop, or for each patch where there are label maps."""
    device = next(network.parameters()).device
    features, classes, patients = [], [], []
    with in_eval(network):
        for number, image in enumerate(crops.images):
            token, patches = encode_tokens(network, image[None].to(device))
            rows = patches[0] if crops.maps else token
            features.append(rows.float().cpu().numpy())
            patients += [crops.patients[number]] * len(rows)
            if crops.maps:
                classes.append(_middles(crops.maps[number], encoder_view(network).stride))
            else:
                classes.append(crops.targets[number : number + 1].argmax(axis=1))
    return np.concatenate(features), np.concatenate(classes), patients


def _middles(labels: Tensor, stride: Sequence[int]) -> np.ndarray:
    """Return the label in the middle of each patch, in row-major order."""
    return labels[tuple(slice(step // 2, None, step) for step in stride)].numpy().ravel()


def _by_patient(items: Sequence[Mapping[str, Any]], patients: Mapping[str, str]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for item in items:
        image = item[Keys.IMAGE] if isinstance(item[Keys.IMAGE], str) else item[Keys.IMAGE][0]
        found[str(item.get("patient") or patients.get(image) or patient_of(image))].append(item)
    if not found:
        raise ValueError("expected scans to probe the weights on, got an empty data list")
    return found


def _question(scan: Mapping[str, Any]) -> str:
    label = scan.get(Keys.LABEL)
    if label is None:
        return _POSITION
    return _SHARES if np.ndim(label) == scan[Keys.IMAGE].ndim else _CLASS


def _draw(
    scan: Mapping[str, Any], question: str, img_size: Sequence[int], rng: np.random.Generator
) -> tuple[Tensor, Tensor, np.ndarray]:
    """Return a crop, its second view and its target before :func:`_columns`."""
    pad = SpatialPad(img_size, mode="constant")
    image = pad(scan[Keys.IMAGE])
    start, moved = _places(image.shape[1:], img_size, rng)
    if question == _SHARES:
        target = _cut(pad(scan[Keys.LABEL]), start, img_size).numpy().ravel()
    elif question == _POSITION:  # the middle of the crop, as a share of the scan
        target = (np.array(start) + np.array(img_size) / 2) / np.array(image.shape[1:])
    else:
        target = np.atleast_1d(np.asarray(scan[Keys.LABEL], dtype=np.float64))
    return _cut(image, start, img_size), _cut(image, moved, img_size), target


def _features(network: nn.Module, crops: Crops) -> tuple[np.ndarray, float]:
    first, second = pooled_features(network, crops.images), pooled_features(network, crops.aside)
    return first, same_place_found(first, second)


def _places(
    shape: Sequence[int], img_size: Sequence[int], rng: np.random.Generator
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Draw the first voxel of a crop, and that of its second view."""
    room = [size - side for size, side in zip(shape, img_size, strict=True)]
    first = tuple(int(rng.integers(space + 1)) for space in room)
    steps = [side // _ASIDE * int(rng.choice((-1, 1))) for side in img_size]
    second = tuple(min(max(start + step, 0), space) for start, step, space in zip(first, steps, room, strict=True))
    return first, second


def _cut(volume: Tensor, start: Sequence[int], img_size: Sequence[int]) -> Tensor:
    window = tuple(slice(first, first + side) for first, side in zip(start, img_size, strict=True))
    return torch.as_tensor(volume)[(slice(None), *window)].as_subclass(Tensor).float()


def _columns(targets: np.ndarray, question: str) -> np.ndarray:
    """Return a column for each class; positions and several classes of an image are columns already."""
    if question == _POSITION or (question == _CLASS and targets.shape[1] > 1):
        return targets
    return np.stack([(targets == number).mean(axis=1) for number in np.unique(targets)], axis=1)
