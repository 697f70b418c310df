# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Load a weight file into a network: read, align names, fit shapes, report, and only then copy."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn as nn

from monai_essa.lean_marks import check_not_lean
from monai_essa.weights.alignment import align
from monai_essa.weights.grids import find_grids
from monai_essa.weights.key_maps import KEY_MAPS, KeyMap
from monai_essa.weights.plan import make_plan
from monai_essa.weights.refusal import refuse_insufficient, refuse_unfit_network, refuse_unknown_names
from monai_essa.weights.weight_file import read_weight_file
from monai_essa.weights.weight_report import WeightReport

__all__ = ["load_weights"]

_logger = logging.getLogger(__name__)


def load_weights(
    network: nn.Module,
    path: str | Path,
    source: str | KeyMap = "auto",
    threshold: float = 0.9,
    source_grid: Sequence[int] | None = None,
    target_grid: Sequence[int] | None = None,
) -> WeightReport:
    """Load pretrained weights into a network, in place, and say what became of every tensor; all or nothing.

    The file may hold the same network, an encoder for it, or another network with such an encoder (a ViT or
    MaskedAutoEncoderViT for a UNETR, a UNETR for a ViT, a Swin transformer for a SwinUNETR), bare or inside
    dictionaries, with any prefix. Position embeddings are interpolated to another ``img_size``; input channels
    change from C to 1 (mean) or from 1 to C (repeated, divided by C). Device, dtype and ``requires_grad`` of the
    network stay. The number of heads of a ViT cannot be read from a file: build the network with the file's.

    Args:
        network: a plain network; the order is build, ``load_weights``, ``adapt``, optimizer.
        path: a .safetensors file, or a file of ``torch.save`` that holds tensors only.
        source: ``"auto"``, the name of a family in ``monai_essa.weights.key_maps``, or a :class:`KeyMap`.
        threshold: least share of the encoder's parameters that has to be loaded. Above 0, the patch embedding and
            learnable position embeddings have to be loaded as well.
        source_grid: patches per axis (img_size / patch_size) that the file's position embeddings were trained for;
            default: equal sides.
        target_grid: the same of the network; default: what the network says, and for a ViT, which does not keep its
            ``img_size``, equal sides.

    Returns:
        The report, which is logged too: as a warning if the encoder is not complete.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read or holds NaN, if the network is adapted or lean already, or if too little
            can be loaded; the message names the likely reason and the network is as it was.

    Example:
        >>> import tempfile
        >>> from monai.networks.nets import UNETR, ViT
        >>> path = Path(tempfile.mkdtemp()) / "vit.pt"
        >>> vit = ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=12, num_heads=4)
        >>> torch.save({"state_dict": vit.state_dict()}, path)
        >>> load_weights(UNETR(1, 2, 32, 4, 48, 96, 4), path).encoder_share
        1.0
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be a share in [0, 1], got {threshold}")
    refuse_unfit_network(network)
    check_not_lean(network, "load_weights")
    file = read_weight_file(path)
    alignment = align(file.tensors, network, _key_maps(source))
    refuse_unknown_names(file, network, alignment)
    grids = find_grids(network, file, alignment, (source_grid, target_grid))
    plan = make_plan(file, network, alignment, grids)
    refuse_insufficient(plan, file, network, alignment, threshold)

    own = network.state_dict()
    with torch.no_grad():
        for name, tensor in plan.tensors.items():
            own[name].copy_(tensor)
    _logger.log(logging.INFO if plan.report.encoder_share == 1 else logging.WARNING, "%s", plan.report)
    return plan.report


def _key_maps(source: str | KeyMap) -> tuple[KeyMap, ...]:
    if isinstance(source, KeyMap):
        return (source,)
    chosen = tuple(key_map for key_map in KEY_MAPS if source in ("auto", key_map.name))
    if not chosen:
        names = ", ".join(repr(key_map.name) for key_map in KEY_MAPS)
        raise ValueError(f"source must be 'auto', a KeyMap or one of {names}, got {source!r}")
    return chosen
