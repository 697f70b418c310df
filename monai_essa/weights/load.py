# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Load a weight file into a network, or refuse it and name every difference."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn as nn

from monai_essa.anatomy import keep_grid
from monai_essa.anatomy.key_maps import MONAI, KeyMap
from monai_essa.anatomy.lean_marks import check_not_lean
from monai_essa.anatomy.parts import unwrapped
from monai_essa.anatomy.tensor_names import differences
from monai_essa.licence import keep_origin
from monai_essa.outside import Nullable, Text, check_pattern, shown
from monai_essa.weights.alignment import Alignment, alignments
from monai_essa.weights.families import Family, card_of, origin_of
from monai_essa.weights.family_files import Pretrained, families_alike, family_of, key_maps_of, resolve_pretrained
from monai_essa.weights.file import GRID, WeightFile, read_weight_file
from monai_essa.weights.fit import FirstLayer, find_grids
from monai_essa.weights.matching import LoadingPlan, make_plan
from monai_essa.weights.report import TensorEntry, WeightReport, named_shapes

__all__ = [
    "check_accept",
    "load_weights",
    "refuse_differences",
    "refuse_several",
    "refuse_unfit_network",
    "refuse_unknown_names",
]

_logger = logging.getLogger(__name__)
_PREFIX = Nullable(Text())


def load_weights(
    network: nn.Module,
    path: str | Path,
    source: str | KeyMap = "auto",
    prefix: str | None = None,
    source_grid: Sequence[int] | None = None,
    target_grid: Sequence[int] | None = None,
    accept: Sequence[str] = (),
    first_layer: FirstLayer | None = None,
) -> WeightReport:
    """Load pretrained weights into a network, in place, and report what happened to every tensor; all or nothing.

    The file may hold the same network, an encoder for it, or another network with such an encoder (a ViT or
    MaskedAutoEncoderViT for a UNETR, a UNETR for a ViT, a Swin transformer for a SwinUNETR), bare or inside
    dictionaries, with any prefix, and with the parts of names that ``torch.compile`` and the parallel wrappers add at
    any depth. Device, dtype and ``requires_grad`` of the network do not change.

    **Encoders are equal or refused.** Each tensor of either encoder, including buffers, needs a counterpart of the same
    shape, however few tensors lack one. Exceptions are transformations, which the report lists: names and class token
    of the file's family, LayerScale, queries, keys and values apart, input channels from C to 1 (mean) or from 1 to C
    (repeated, divided by C), a 2-D patch embedding for a volume, and the grid of position embeddings; ``first_layer``
    chooses among the rules for the convolution that reads the image. Any other difference has to be named by
    ``accept``. A decoder or a head may be missing on either side; the report says what stays random. A file cannot show
    what is not in its tensors: build the network with the file's number of heads, strides, norm groups and epsilon.

    **Grids.** The file's grid is ``source_grid``, or else the one that the file states (the ``model.pt`` of a stage
    does), or else equal sides if their product is the number of its position embeddings. If the network has as many on
    another grid, ``source_grid`` is required. The network's grid is ``target_grid``, or else the one that it keeps. A
    ViT keeps none until :func:`monai_essa.anatomy.keep_grid` is called: if it has as many position embeddings as the
    file, it takes over the file's grid, else ``target_grid`` is required.

    **Origin.** The report names the family, its licence and whom to cite, as far as the name or the checksum of the
    file or ``source`` tells them. The network keeps this, and whatever is made of it carries it on.

    Args:
        network: a plain network, possibly inside ``torch.compile``, DataParallel or DistributedDataParallel; the order
            is build, ``load_weights``, ``adapt``, optimizer.
        path: a .safetensors file, or a file of ``torch.save`` that holds tensors only; or ``family:NAME`` or
            ``bundle:DIR``, see :func:`monai_essa.weights.resolve_pretrained`.
        source: ``"auto"``, the name of a family in ``monai_essa.weights.families``, of a grammar in
            ``monai_essa.anatomy.key_maps``, or a :class:`KeyMap`.
        prefix: of the names of the network to load from a file that holds several, such as ``"model_ema"``.
        source_grid: patches per axis (img_size / patch_size) that the file's position embeddings were trained for.
        target_grid: patches per axis that the network was built for.
        accept: patterns of tensors of the encoder that may be missing, left over or of another shape; full match on
            the name in the network or the key in the file.
        first_layer: how the convolution that reads the image is fitted; default: the defaults of :class:`FirstLayer`.

    Returns:
        The report, which is logged too, as a warning if the encoder is not complete.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if an argument has a wrong type, if the file cannot be read or holds NaN, if the network is adapted
            or lean already, if the file's encoder is a different one, or if several networks in it fit and ``prefix``
            does not select one. The message names the likely reason, and the network is as it was.

    Example:
        >>> import tempfile
        >>> from monai.networks.nets import UNETR, ViT
        >>> path = Path(tempfile.mkdtemp()) / "vit.pt"
        >>> vit = ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=12, num_heads=4)
        >>> torch.save({"state_dict": vit.state_dict()}, path)
        >>> load_weights(UNETR(1, 2, 32, 4, 48, 96, 4), path).encoder_share
        1.0
    """
    network, accept = unwrapped(network), check_accept(accept)
    _PREFIX.check(prefix, "prefix")
    given = _grid(source_grid, "source_grid"), _grid(target_grid, "target_grid")
    refuse_unfit_network(network)
    check_not_lean(network, "load_weights")
    pretrained = resolve_pretrained(path)
    key_maps, family = key_maps_of(pretrained.family.name if pretrained.family and source == "auto" else source)
    file = read_weight_file(pretrained.path)
    found = alignments(file.tensors, network, key_maps, prefix)
    if not found:
        refuse_unknown_names(file, network, alignments(file.tensors, network, key_maps), prefix)
    grids = [find_grids(network, file, each, given) for each in found]
    plans = [make_plan(file, network, *pair, accept, first_layer) for pair in zip(found, grids, strict=True)]
    fitting = [plan for plan in plans if not plan.differences] or plans[:1]
    refuse_several(fitting, file, network)
    refuse_differences(fitting[0], file, network)
    report = _with_origin(fitting[0], file, family, pretrained)
    _carry_out(fitting[0], network)
    keep_origin(network, report.origin, report.preprocessing if isinstance(report.preprocessing, Mapping) else None)
    _logger.log(logging.INFO if report.encoder_share == 1 else logging.WARNING, "%s", report)
    return report


def check_accept(accept: Sequence[str]) -> tuple[str, ...]:
    """Return the patterns of ``accept``; ValueError if they are not a list of safe regular expressions."""
    if isinstance(accept, str) or not isinstance(accept, Sequence):
        raise ValueError(f"accept: expected a list of patterns of tensor names, got {shown(accept)}")
    return tuple(check_pattern(pattern, "accept") for pattern in accept)


def refuse_unfit_network(network: nn.Module) -> None:
    """Raise a ValueError if a part of the network is adapted: its adapter was made for other weights."""
    if any(hasattr(module, "_monai_essa_adaptation") for module in network.modules()):
        raise ValueError(
            f"{type(network).__name__} is adapted; load before patching: adapt(...) comes after load_weights(...)"
        )


def refuse_unknown_names(
    file: WeightFile, network: nn.Module, fitting: Sequence[Alignment], prefix: str | None
) -> None:
    """Raise the ValueError for a file in which no tensor, or none under the prefix, has a name of the encoder.

    Args:
        file: the weight file.
        network: the network to load into.
        fitting: the networks of the file under any prefix.
        prefix: from the caller, or None.
    """
    if prefix is not None and fitting:
        raise ValueError(
            f"{file.name}: prefix {shown(prefix)} holds no tensor of {type(network).__name__}; give "
            f"{' or '.join(shown(each.prefix) for each in fitting)} (nothing was loaded)"
        )
    raise ValueError(
        f"{file.name}: none of its {len(file.tensors)} tensors has a name of {type(network).__name__}; "
        f"the file holds {shown(next(iter(file.tensors)))}, the network '{next(iter(network.state_dict()))}'; "
        f"give weights of this architecture (nothing was loaded)"
    )


def refuse_several(plans: Sequence[LoadingPlan], file: WeightFile, network: nn.Module) -> None:
    """Raise a ValueError if several networks of a file fit and their values differ, so that the choice is unclear."""
    first = plans[0]
    for other in plans[1:]:
        if not _same_values(first, other):
            listed = ", ".join(f"{shown(each.report.prefix)} ({len(each.tensors)} tensors)" for each in plans)
            raise ValueError(
                f"{file.name} holds {len(plans)} networks that fit {type(network).__name__}, under {listed}; say "
                "which one by prefix= (in a bundle: pretrained_prefix; nothing was loaded)"
            )


def refuse_differences(plan: LoadingPlan, file: WeightFile, network: nn.Module) -> None:
    """Raise a ValueError if the file's encoder differs from the network's, or values are not finite."""
    own = network.state_dict()
    for name, tensor in plan.tensors.items():
        if not tensor.to(own[name].dtype).isfinite().all():
            raise ValueError(f"{file.name}: '{name}' would get NaN or infinity; give another checkpoint")
    if not plan.differences:
        return
    shapes = named_shapes(plan.alignment.keys, file.tensors), named_shapes(plan.alignment.places, own)
    listed = [
        *_causes(plan),
        *differences(*shapes),
        *_some("only in the file", plan.differences.only_in_file),
        *_some("only in the network", plan.differences.only_in_network),
        *_some("does not fit", plan.differences.unfit, reasons=True),
    ]
    raise ValueError(
        f"{file.name}: its encoder is not that of this {type(network).__name__}: {'; '.join(listed)}; give weights of "
        "this architecture, or accept=[patterns of names] what may differ (nothing was loaded)"
    )


def _grid(grid: Sequence[int] | None, name: str) -> tuple[int, ...] | None:
    return None if grid is None else tuple(GRID.check(grid, name))


def _carry_out(plan: LoadingPlan, network: nn.Module) -> None:
    own = network.state_dict()
    with torch.no_grad():
        for name, tensor in plan.tensors.items():
            own[name].copy_(tensor)
    if plan.grid is not None:
        keep_grid(network, plan.grid)


def _with_origin(plan: LoadingPlan, file: WeightFile, named: Family | None, pretrained: Pretrained) -> WeightReport:
    """Complete a report by the family, whose licence a file that we wrote states itself."""
    report, key_map = plan.report, plan.alignment.key_map
    if file.states_origin:
        family = None if file.origin is None else file.origin["family"]
        return dataclasses.replace(report, family=family, origin=file.origin)
    if pretrained.bundle is not None and named is None:
        said = f"what LICENSE of the bundle {pretrained.bundle.title} says"
        of_bundle = {**origin_of(None, file.sha256), "family": pretrained.bundle.title, "licence": said}
        return dataclasses.replace(report, origin=of_bundle, preprocessing=dict(pretrained.bundle.card))
    family = named or family_of(file, key_map)
    card = report.preprocessing if family is None or report.preprocessing is not None else card_of(family) or None
    caution = () if family is None or family.caution is None else (family.caution,)
    notes = (*report.notes, *caution, *_unknown_family(key_map, family))
    origin = origin_of(family, file.sha256)
    return dataclasses.replace(
        report, family=None if family is None else family.name, origin=origin, preprocessing=card, notes=notes
    )


def _unknown_family(key_map: KeyMap, family: Family | None) -> Iterator[str]:
    """Name the families that a file may be of; with MONAI's own names it may as well be a site's own."""
    alike = [each.name for each in families_alike(key_map)]
    if family is None and key_map != MONAI and alike:
        yield f"its names are those of {', '.join(alike)}; which one is unknown: say it by source=NAME"


def _causes(plan: LoadingPlan) -> list[str]:
    """List what the file has that no network of MONAI can use, each once."""
    names = {key: name for name, key in plan.alignment.keys.items()}
    reasons = (plan.alignment.key_map.why_refused(names[each.source]) for each in plan.differences.only_in_file)
    return [reason for reason in dict.fromkeys(reasons) if reason]


def _same_values(one: LoadingPlan, other: LoadingPlan) -> bool:
    return all(
        torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items() if name in other.tensors
    )


def _some(kind: str, entries: Sequence[TensorEntry], reasons: bool = False) -> list[str]:
    if not entries:
        return []
    names = [f"{shown(entry.name)} ({entry.reason})" if reasons else shown(entry.name) for entry in entries[:2]]
    more = f" and {len(entries) - 2} more" if len(entries) > 2 else ""
    return [f"{kind}: {', '.join(names)}{more}"]
