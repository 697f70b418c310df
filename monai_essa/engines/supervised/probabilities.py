# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Class probabilities that are averaged: over mirrored copies of an image, and over the networks of several runs."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from monai.inferers import Inferer

from monai_essa.engines.folder.run_folder import run_settings
from monai_essa.engines.networks import trained_network
from monai_essa.outside import ListOf, Number, shown

__all__ = ["AveragedInferer", "ensemble_networks", "warn_of_sides"]

_logger = logging.getLogger(__name__)
_AXES = ListOf(Number(0, 2, whole=True))
_SIDE = re.compile(r"(^|[^a-z])(left|right|l|r|lt|rt|lh|rh)([^a-z]|$)", re.IGNORECASE)


class AveragedInferer(Inferer):
    r"""Average the class probabilities of networks over every combination of flips.

    .. math:: \bar p = \frac{1}{M \, 2^F} \sum_{m=1}^{M} \sum_{s \subseteq \text{flips}} T_s \, p_m(T_s x)

    with :math:`T_s` the flip along the axes s and F axes, as nnU-Net mirrors (Isensee et al., Nature Methods 18, 2021).
    It returns the logits that belong to :math:`\bar p`, so that the steps behind it, softmax or sigmoid first, are
    those of a single network. There is no chance in it. It takes M times :math:`2^F` as long as one pass.

    Args:
        inferer: runs one network on one image, such as MONAI's ``SlidingWindowInferer``.
        flips: axes of the image, from 0, that are mirrored; empty: none.
        networks: more networks than the one that it is called with, on the same device.
        multi_label: the classes do not exclude each other: sigmoid and not softmax.

    Raises:
        ValueError: if ``flips`` are no different axes; when called, if the image has no such axis.

    Example:
        >>> from monai.inferers import SimpleInferer
        >>> inferer = AveragedInferer(SimpleInferer(), flips=[0])
        >>> def network(x):
        ...     return torch.cat([x.cumsum(2), 0 * x], 1)
        >>> images = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
        >>> torch.allclose(inferer(images.flip(2), network), inferer(images, network).flip(2))
        True
    """

    def __init__(
        self, inferer: Inferer, flips: Sequence[int] = (), networks: Sequence[nn.Module] = (), multi_label: bool = False
    ) -> None:
        super().__init__()
        axes = _AXES.check(flips, "flips")
        if len(set(axes)) < len(axes):
            raise ValueError(f"flips: expected each axis once, got {shown(flips)}")
        self.inferer = inferer
        self.networks = [network.eval() for network in networks]
        self.multi_label = multi_label
        self.sides = [
            [axis + 2 for bit, axis in enumerate(axes) if number >> bit & 1] for number in range(2 ** len(axes))
        ]

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run all networks on all flips.

        Args:
            inputs: images (B, C, spatial...).
            network: the first of the networks.
            args: for the inferer.
            kwargs: likewise.

        Returns:
            Logits (B, classes, spatial...), or (B, classes), in fp32.
        """
        last = max(self.sides[-1], default=1)
        if last >= inputs.dim():
            raise ValueError(f"flips: the images have {inputs.dim() - 2} axes, counted from 0, got {last - 2}")
        total: Any = 0.0
        for each in (network, *self.networks):
            for axes in self.sides:
                logits = self.inferer(inputs.flip(axes), each, *args, **kwargs).float()
                chances = logits.sigmoid() if self.multi_label else logits.softmax(1)
                total = total + (chances.flip(axes) if chances.dim() > 2 else chances)
        mean: torch.Tensor = total / ((1 + len(self.networks)) * len(self.sides))
        return mean.logit() if self.multi_label else mean.log()


def ensemble_networks(
    network: nn.Module, runs: Sequence[str | Path], settings: Mapping[str, Any], output_dir: str | Path
) -> list[nn.Module]:
    """Load the networks of an ensemble but for the first, which the evaluator has already.

    Args:
        network: the plain network of the runs; it is copied.
        runs: folders of finished runs, each with a ``model.pt``; none: there is no ensemble.
        settings: what all runs must share, by key of the bundle: labels, and how images are prepared.
        output_dir: where the scores of the ensemble go: none of the runs.

    Returns:
        The networks of all runs but the first, in eval mode.

    Raises:
        FileNotFoundError: if a folder holds no run or no ``model.pt``.
        ValueError: if a run is not finished, has other settings or another network, or would get the scores.
    """
    for run in runs:
        theirs = run_settings(run)
        for key, ours in settings.items():
            if key in theirs and theirs[key] != _plain(ours):
                raise ValueError(
                    f"ensemble: {run} has {key} {shown(theirs[key])}, expected {shown(_plain(ours))}; average runs of "
                    "the same labels and images"
                )
        if Path(run).resolve() == Path(output_dir).resolve():
            raise ValueError(f"ensemble: output_dir is {run}, one of the runs; give the ensemble a folder of its own")
    return [trained_network(copy.deepcopy(network), Path(run) / "model.pt").eval() for run in runs[1:]]


def warn_of_sides(flips: Sequence[int], labels: Mapping[str, int], axcodes: str | None = "RAS") -> None:
    """Warn if test-time flips mirror left and right and labels tell them apart: a network may take one for the other.

    Args:
        flips: axes that are mirrored.
        labels: the number of each class by its name.
        axcodes: the orientation of the images; None, as of 2-D images, if it is not known.

    Example:
        >>> warn_of_sides([1], {"background": 0, "left kidney": 1})
    """
    sides = [name for name in labels if _SIDE.search(name)]
    mirrored = [axis for axis in flips if axcodes is None or axcodes[axis : axis + 1] in ("L", "R")]
    if sides and mirrored:
        _logger.warning(
            "flips %s mirrors left and right, which the labels %s tell apart: leave that axis out, unless the network "
            "was trained on such flips with the labels exchanged",
            list(flips),
            ", ".join(map(shown, sides)),
        )


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
