# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Choices for a site, each with its reason: stage, spacing, patch and network; recipe, cache and epochs that fit."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_essa.anatomy.tensor_names import architecture_of
from monai_essa.devices import default_device, gpu_memory
from monai_essa.planning.site import FEW_LABELS, ImageFacts, SiteFacts
from monai_essa.weights.file import read_weight_file

__all__ = [
    "DEFAULT_NETWORK",
    "SIDE",
    "Choice",
    "Computer",
    "Timing",
    "bytes_of",
    "cache_choices",
    "epoch_choices",
    "network_choice",
    "overlay_choices",
    "patch_choice",
    "recipe_choice",
    "spacing_choice",
    "stage_choice",
    "this_computer",
]

SIDE = 96
"""Voxels of a patch: what public weights of MONAI's networks were trained on."""
_STEPS = {"vit": 16, "unetr": 16, "swin_unetr": 32, "segresnet": 16}  # voxels that a patch side is a multiple of
_COARSEST = 1.5  # mm, the usual spacing of public CT networks
DEFAULT_NETWORK = {"essa_ssa": "vit", "essa_segmentation": "unetr", "essa_classification": "vit"}
# Tried in this order: recomputation costs time, and a batch of four or more is worth that.
_RECIPES = [("fast", 16), ("fast", 8), ("fast", 4), ("small", 16), ("small", 8), ("small", 4)]
_RECIPES += [("fast", 2), ("small", 2), ("fast", 1), ("small", 1)]
_CACHE_SHARE = 0.25  # of the computer's memory
_MOST_EPOCHS = 1000
_VALIDATION_SHARE = 0.2  # of the training time
_USED_HOURS = 0.9  # of the hours; the rest is for start, checkpoints and the other users of the computer
_UNITS = {"GB": 1e9, "G": 1e9, "GIB": 2.0**30, "MB": 1e6, "M": 1e6, "MIB": 2.0**20}
_OWN = 0.6e9  # bytes that CUDA's context, or Python and its libraries, take beside the tensors
_FREE_SHARE = 0.9  # of the memory; the rest is lost between the allocator's blocks


@dataclass(frozen=True)
class Choice:
    """A value of the plan, and why."""

    value: Any
    reason: str


def stage_choice(facts: SiteFacts, wanted: str | None = None) -> Choice:
    """Choose the bundle: SSA where labels are absent or few, else that of the task that they are for.

    Args:
        facts: of the site.
        wanted: ``ssa``, ``segmentation`` or ``classification`` where the user said so.

    Returns:
        The bundle's name.

    Raises:
        ValueError: if the labels that are wanted are not there, for training and for validation.
    """
    task = "segmentation" if facts.by_voxel else "classification"
    if wanted not in (None, "ssa") and not (wanted == task and facts.labelled and facts.validation):
        kind = "label maps" if wanted == "segmentation" else "classes"
        found = (facts.labelled, facts.validation) if wanted == task else (0, 0)
        raise ValueError(
            f"{facts.datalist}: --stage {wanted} needs {kind} in training and validation, got {found[0]} and "
            f"{found[1]}; `monai-essa data datalist` splits a folder by patient"
        )
    counts = f"{facts.labelled} of {facts.scans} scans have a label for training, {facts.validation} for validation"
    if wanted is not None:
        return Choice(f"essa_{wanted}", f"--stage {wanted}; {counts}")
    if facts.labelled >= FEW_LABELS and facts.validation:
        return Choice(f"essa_{task}", counts)
    return Choice("essa_ssa", f"{counts}: adapt to all scans first, then plan again with --stage {task}")


def spacing_choice(facts: ImageFacts, side: int = SIDE) -> Choice:
    """Choose the spacing: the median, coarser where a patch would hold less than a third of the scan along an axis.

    Args:
        facts: of the site.
        side: voxels of a patch, default 96.

    Returns:
        Three numbers in mm; never coarser than 1.5 mm unless the median is.
    """
    median = np.array(facts.spacing)
    wanted = np.minimum(np.array(facts.extent) / 3 / side, _COARSEST)
    spacing = [round(float(value), 2) for value in np.maximum(median, wanted)]
    reason = f"the median of {facts.read} scans"
    if (wanted > median * 1.01).any():
        reason += f" is {_by(median)} mm; coarser, so that a patch holds a third of a scan, up to {_COARSEST} mm"
    return Choice(spacing, reason)


def patch_choice(facts: ImageFacts, spacing: Sequence[float], network: str, most: int = SIDE) -> Choice:
    """Choose the patch: 96 voxels a side, or the scan where that is smaller, in steps of the network.

    Args:
        facts: of the site.
        spacing: in mm.
        network: ``vit``, ``unetr``, ``swin_unetr`` or ``segresnet``.
        most: voxels a side, default 96.

    Returns:
        Three numbers of voxels.
    """
    step = _STEPS[network]
    least = 64 if network == "swin_unetr" else 2 * step
    voxels = np.divide(facts.extent, spacing)
    sides = [min(most, max(least, step * math.ceil(round(float(side), 3) / step))) for side in voxels]
    size, extent = np.multiply(sides, spacing), np.array(facts.extent)
    share = float(np.prod(np.minimum(size, extent) / extent))
    return Choice(sides, f"{_by(size)} mm, {share:.0%} of the median scan ({_by(extent)} mm)")


def network_choice(stage: str, pretrained: Path | None = None, wanted: str | None = None) -> Choice:
    """Choose the network: what the user says, what the weights are of, or the bundle's default.

    Args:
        stage: the bundle's name.
        pretrained: the weight file.
        wanted: ``vit``, ``unetr``, ``swin_unetr`` or ``segresnet``.

    Returns:
        One of these names.

    Raises:
        FileNotFoundError: if there is no such weight file.
        ValueError: if the file is damaged or of none of these networks, or the bundle has no such network.
    """
    if wanted == "vit" and stage == "essa_segmentation":
        raise ValueError("--network vit has no decoder to segment with; expected unetr, swin_unetr or segresnet")
    if wanted is not None:
        return Choice(wanted, f"--network {wanted}")
    if pretrained is None:
        return Choice(DEFAULT_NETWORK[stage], f"the default of {stage}")
    kind = architecture_of(read_weight_file(pretrained).tensors)
    if kind is None:
        raise ValueError(f"{pretrained}: expected weights of a ViT, UNETR, SwinUNETR or SegResNet; give --network")
    network = DEFAULT_NETWORK[stage] if kind == "transformer" else kind
    return Choice(network, f"the tensors of {pretrained.name} have its names")


def overlay_choices(
    stage: str, network: Choice, modality: Choice, pretrained: bool, images: Sequence[Choice] = ()
) -> list[Choice]:
    """List the config files over train.yaml.

    Args:
        stage: the bundle's name.
        network: of :func:`network_choice`.
        modality: ``ct``, ``mr`` or ``us``; None in 2-D, where each image is scaled by itself.
        pretrained: whether there is a weight file.
        images: overlays after that of the network, so that their sizes win, and before the method.

    Returns:
        File names without a folder, the last one strongest.
    """
    files = []
    if network.value != DEFAULT_NETWORK[stage]:
        files.append(Choice(f"network_{network.value}.yaml", network.reason))
    files += images
    if not pretrained:
        why = "no pretrained weights, so every parameter has to learn: a method would freeze random tensors"
        files.append(Choice("method_full.yaml" if stage == "essa_ssa" else "start_random.yaml", why))
    elif network.value == "segresnet":
        files.append(Choice("method_lora_conv.yaml", "APLA needs attention, and a CNN has none"))
    if modality.value not in ("mr", None):
        files.append(Choice(f"intensity_{modality.value}.yaml", modality.reason))
    return files


@dataclass(frozen=True)
class Timing:
    """Seconds that were measured: of a step, to load its batch from the cache, to load one scan without it."""

    step: float
    batch: float
    scan: float


def recipe_choice(
    budget: int, scans: int, peak: Callable[[str, int], int], network: str, least_batch: int = 1
) -> dict[str, Choice]:
    """Choose the lean recipe and the batch: the first of a list that the meter says to fit.

    Args:
        budget: bytes that a step may take.
        scans: to train on; a batch is not larger.
        peak: of a recipe and a batch size, in bytes.
        network: for the error line.
        least_batch: patients that the objective compares.

    Returns:
        ``lean`` and ``batch_size``.

    Raises:
        ValueError: if the smallest batch does not fit.
    """
    tried: dict[tuple[str, int], int] = {}
    for lean, batch in _RECIPES:
        if not least_batch <= batch <= max(1, scans):
            continue
        tried[lean, batch] = peak(lean, batch)
        if tried[lean, batch] <= budget:
            return {"lean": _lean(lean, tried), "batch_size": _batch(lean, batch, tried, budget, scans)}
    least, patches = min(tried.values()), "one patch" if least_batch == 1 else f"a batch of {least_batch}"
    raise ValueError(
        f"memory: expected at least {_gb(least)} for {network} with {patches} and lean: small, got {_gb(budget)} "
        "after what the libraries take; set more --memory, a smaller img_size or another --network"
    )


def cache_choices(
    facts: SiteFacts, spacing: Sequence[float], patch: Sequence[int], stage: str, computer: Computer, folder: Path
) -> dict[str, Choice]:
    """Choose where preprocessed scans stay: in memory, on disk, or a part of them in memory.

    Args:
        facts: of the site.
        spacing: in mm.
        patch: in voxels; smaller scans are padded to it.
        stage: the bundle's name.
        computer: that trains.
        folder: for a cache on disk.

    Returns:
        ``cache_rate`` and ``cache_dir``.
    """
    labelled = stage != "essa_ssa"
    scans = facts.labelled + facts.validation if labelled else facts.scans
    voxels = math.prod(max(side, length) for side, length in zip(patch, np.divide(facts.extent, spacing), strict=True))
    size = scans * (voxels * (4 * facts.channels + (4 if labelled else 1)) + 1.6e6 * labelled)
    whole = f"{scans} preprocessed scans take about {_gb(size)}"
    if size <= computer.ram * _CACHE_SHARE:
        reason = f"{whole} of the {_gb(computer.ram)} of memory"
        return {"cache_rate": Choice(1.0, reason), "cache_dir": Choice(None, "memory holds them")}
    if size * 1.1 <= computer.disk:
        reason = f"{whole}: too much for {_gb(computer.ram)} of memory; {_gb(computer.disk)} are free on this disk"
        return {"cache_rate": Choice(1.0, "without meaning beside cache_dir"), "cache_dir": Choice(str(folder), reason)}
    rate = math.floor(100 * computer.ram * _CACHE_SHARE / size) / 100
    reason = (
        f"{whole}: too much for {_gb(computer.ram)} of memory and {_gb(computer.disk)} of free disk, so a part only"
    )
    return {"cache_rate": Choice(rate, reason), "cache_dir": Choice(None, "too little free disk")}


def epoch_choices(hours: float, timing: Timing, counts: Mapping[str, int], cache_rate: float) -> dict[str, Choice]:
    """Choose how many epochs fit into the hours, and how often to validate.

    Args:
        hours: of the whole run.
        timing: measured on this computer.
        counts: ``scans`` to train on, ``batch``, ``forwards`` of a validation and ``files`` to fill the cache with.
        cache_rate: share of the scans that need no loading in an epoch.

    Returns:
        ``max_epochs`` and ``val_interval``.
    """
    steps = math.ceil(counts["scans"] / counts["batch"])
    epoch = steps * (timing.step + timing.batch) + (1 - cache_rate) * counts["scans"] * timing.scan
    validation = counts["forwards"] * timing.step / 3  # forward only; a step is forward and about twice that back
    interval = max(1, math.ceil(validation / (_VALIDATION_SHARE * epoch)))
    filling = cache_rate * counts["files"] * timing.scan
    fitting = math.floor((hours * 3600 * _USED_HOURS - filling) / (epoch + validation / interval))
    epochs = min(_MOST_EPOCHS, max(1, fitting))
    interval = min(interval, epochs)  # the last epoch is validated at least
    whole = (filling + epochs * (epoch + validation / interval)) / 3600
    reason = (
        f"{whole:.2g} of {hours:g} hours: {steps} steps of {timing.step:.2g} s an epoch, {timing.batch:.2g} s to load"
    )
    if fitting < 1:
        reason += "; not even one epoch fits, so give samples_per_epoch or more hours"
    return {
        "max_epochs": Choice(epochs, reason),
        "val_interval": Choice(interval, f"epochs; a validation takes about {validation:.2g} s"),
    }


@dataclass(frozen=True)
class Computer:
    """The computer that a run would train on.

    Attributes:
        memory: bytes of the GPU; without one, those that training may use of the computer's.
        source: where ``memory`` is from, for the reader of a plan.
        device: ``cuda`` or ``cpu``.
        ram: bytes of the computer's memory.
        disk: bytes that are free for a cache on disk.
    """

    memory: int
    source: str
    device: str
    ram: int
    disk: int

    @property
    def budget(self) -> int:
        """Bytes that the tensors of a training step may take: without CUDA's or Python's own, and with a margin."""
        return max(0, int(self.memory * _FREE_SHARE - _OWN))


def bytes_of(text: str) -> int:
    """Read an amount of memory.

    Args:
        text: a number with GB, GiB, MB or MiB.

    Returns:
        Bytes.

    Raises:
        ValueError: if it is anything else.

    Example:
        >>> bytes_of("12GB"), bytes_of("1.5 GiB")
        (12000000000, 1610612736)
    """
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    factor = _UNITS.get(parts[2].upper()) if parts else None
    if parts is None or factor is None or not float(parts[1]):
        raise ValueError(f"--memory {text}: expected an amount such as 12GB, 24GiB or 800MB")
    return int(float(parts[1]) * factor)


def this_computer(folder: Path, memory: int | None = None) -> Computer:
    """Read what this computer has.

    Args:
        folder: where a cache would be written.
        memory: bytes to plan for instead of those of the GPU.

    Returns:
        The computer. Without a GPU half of its memory is planned for: scans and the system take the other half.

    Raises:
        ValueError: if the memory of the system is unknown and ``memory`` is not given.
    """
    ram = _ram()
    disk = shutil.disk_usage(next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists()))
    device = default_device().type
    if memory is not None:
        return Computer(memory, "--memory", device, ram or memory, disk.free)
    if (card := gpu_memory()) is not None:
        name, total = card
        return Computer(total, name, device, ram or total, disk.free)
    if ram is None:
        raise ValueError("the memory of this computer is unknown; set --memory, such as --memory 16GB")
    return Computer(ram // 2, "half of this computer's memory, no CUDA card", device, ram, disk.free)


def _by(values: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{value:.3g}" for value in values)


def _lean(lean: str, tried: Mapping[tuple[str, int], int]) -> Choice:
    fast = {batch: peak for (recipe, batch), peak in tried.items() if recipe == "fast"}
    if lean == "fast":
        return Choice(lean, "nothing is recomputed; small takes less memory and more time")
    return Choice(
        lean, f"recomputes in the backward pass; fast takes {_gb(fast[min(fast)])} with a batch of {min(fast)}"
    )


def _batch(lean: str, batch: int, tried: Mapping[tuple[str, int], int], budget: int, scans: int) -> Choice:
    reason = f"{_gb(tried[lean, batch])} at the peak of a step, of {_gb(budget)}"
    larger = tried.get((lean, 2 * batch))
    if larger is not None:
        return Choice(batch, f"{reason}; {2 * batch} would take {_gb(larger)}")
    return Choice(batch, f"{reason}; there are {scans} scans" if 2 * batch > scans else reason)


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size < 1e10 else f"{size / 1e9:.0f} GB"


def _ram() -> int | None:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
