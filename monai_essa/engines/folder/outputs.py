# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a stage leaves: the adapter file, the merged model, the next version of a model folder."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from ignite.engine import Engine, Events

from monai_essa.adapters.adaptation import merge
from monai_essa.adapters.file import save_adapter
from monai_essa.adapters.record import check_card
from monai_essa.adapters.summary import summary
from monai_essa.anatomy import state_with_grid
from monai_essa.anatomy.parts import encoder_prefix, part_of
from monai_essa.distributed.processes import process_rank
from monai_essa.engines.folder.run_folder import note_origin
from monai_essa.files import write_text_whole, written_whole
from monai_essa.licence import kept_card, kept_origin
from monai_essa.methods.method import NotMergeable
from monai_essa.outside import shown

__all__ = ["StageOutputs", "next_run_folder", "publish_model"]

_logger = logging.getLogger(__name__)
_HANDOVERS = ("adapter", "encoder", "network")
# Entries of a card, and what a site sets in the bundle to change them.
_KEYS = {"spacing": "spacing", "axcodes": "axcodes", "intensity": "intensity_name by an intensity_*.yaml"}


class StageOutputs:
    """Handler that writes, when the trainer completes, the results of a stage into its run folder.

    - ``adapter.safetensors``: every tensor that may differ from the base (:func:`monai_essa.save_adapter`);
    - ``model.pt``: the plain state dict of the merged network, or of its encoder alone, for the stock MONAI class;
    - ``summary.txt``: trainable and total parameters.

    A method that cannot be merged leaves no ``model.pt``: a warning says so and how to go on.

    Args:
        network: the adapted network.
        output_dir: the run folder.
        handover: ``"encoder"``: ``model.pt`` is the encoder alone (a ``ViT`` out of a UNETR, a ``SwinTransformer`` out
            of a SwinUNETR), since the decoder did not learn. ``"network"``: it is the whole network. ``"adapter"``:
            there is none, for the next stage starts from the adapter file.
        preprocessing: card that goes into the adapter file: spacing (mm), axcodes, intensity, label names.

    Raises:
        ValueError: if ``handover`` is none of them, the card is more than plain values, or the weights expect another
            spacing, orientation or intensity than the card says: said before the training.
    """

    def __init__(
        self,
        network: nn.Module,
        output_dir: str | Path,
        handover: str = "network",
        preprocessing: Mapping[str, Any] | None = None,
    ) -> None:
        if handover not in _HANDOVERS:
            raise ValueError(f"handover must be one of {', '.join(_HANDOVERS)}, got {handover!r}")
        self.network = network
        self.output_dir = Path(output_dir)
        self.handover = handover
        self.preprocessing = check_card(preprocessing, "preprocessing")
        _refuse_other_images(kept_card(network), self.preprocessing)

    def attach(self, engine: Engine) -> None:
        """Write at the trainer's end, in the first process; attach after the handler that restores the best epoch."""
        if process_rank() == 0:
            engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the files, each under a temporary name first."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        save_adapter(self.network, self.output_dir / "adapter.safetensors", self.preprocessing)
        note_origin(self.output_dir, kept_origin(self.network))
        write_text_whole(self.output_dir / "summary.txt", f"{summary(self.network).table()}\n")
        if self.handover != "adapter":
            self._write_merged()

    def _write_merged(self) -> None:
        try:
            plain = merge(self.network).cpu()
        except NotMergeable as reason:
            _logger.warning(
                "no model.pt in %s, adapter.safetensors holds the result: start the next stage from it "
                "(start: adapter); %s",
                self.output_dir,
                reason,
            )
            return
        state = plain.state_dict() if self.handover == "network" else _encoder_state(plain)
        # An open file: of a path, torch.save would write the name, which is temporary, into the archive.
        with written_whole(self.output_dir / "model.pt") as temporary, temporary.open("wb") as file:
            torch.save(state_with_grid(plain, state), file)


def next_run_folder(folder: str | Path) -> Path:
    """Name a run folder that does not exist: ``001``, ``002`` and so on.

    Args:
        folder: where the runs are.

    Returns:
        The path; it is not made.

    Example:
        >>> import tempfile
        >>> next_run_folder(tempfile.mkdtemp()).name
        '001'
    """
    numbers = [int(path.name) for path in Path(folder).glob("[0-9][0-9][0-9]*") if path.name.isdigit()]
    return Path(folder) / f"{max(numbers, default=0) + 1:03d}"


def publish_model(run: str | Path, models: str | Path) -> Path:
    """Make a finished run's model.pt the bundle's, and keep every earlier one beside it.

    ``model_000.pt`` is what was there before the first run, ``model_001.pt`` the result of run ``001``. To undo a
    run, copy an earlier one over ``model.pt``, or choose it as ``model_filename`` in MONAI Label.

    Args:
        run: folder of the run.
        models: the bundle's folder ``models``.

    Returns:
        The new ``model.pt``.

    Raises:
        FileNotFoundError: if the run has no model.pt.
    """
    run, models = Path(run), Path(models)
    result, current, first = run / "model.pt", models / "model.pt", models / "model_000.pt"
    if not result.is_file():
        raise FileNotFoundError(
            f"{run} has no model.pt to publish: its method cannot be merged; train with method_apla.yaml or another "
            "that can"
        )
    models.mkdir(parents=True, exist_ok=True)
    if current.is_file() and not first.exists():
        _copy(current, first)
    _copy(result, models / f"model_{run.name}.pt")
    return _copy(result, current)


def _refuse_other_images(expected: Mapping[str, Any], card: Mapping[str, Any]) -> None:
    """Compare what the weights are known to expect with what the run feeds them."""
    for name, key in _KEYS.items():
        wanted, given = expected.get(name), card.get(name)
        if wanted is not None and given is not None and wanted != given:
            raise ValueError(
                f"the weights expect {name} {shown(wanted)}, this run has {shown(given)}: set {key}, or take other "
                "weights"
            )


def _encoder_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the encoder's tensors under the names that the bare encoder has, without a decoder that did not learn."""
    state = network.state_dict()
    encoder = (name for name in state if part_of(network, name) == "encoder")
    return {name.removeprefix(encoder_prefix(network)): state[name] for name in encoder}


def _copy(source: Path, target: Path) -> Path:
    with written_whole(target) as temporary:
        shutil.copyfile(source, temporary)  # without its time: a server takes a newer file for a new model
    return target
