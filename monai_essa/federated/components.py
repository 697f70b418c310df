# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The components of NVIDIA FLARE that a job names: the executor of a site, aggregator and persistor of the server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.aggregator import Aggregator
from nvflare.app_common.abstract.learnable_persistor import LearnablePersistor
from nvflare.app_common.abstract.model import ModelLearnable, ModelLearnableKey, make_model_learnable
from nvflare.app_common.app_constant import AppConstants

from monai_essa.error_line import one_line
from monai_essa.federated.exchange import Start, averaged, check_update, check_weight, read_start, write_start
from monai_essa.federated.site import FederatedStage, run_round
from monai_essa.files import write_text_whole
from monai_essa.outside import NAME, Text, printable

__all__ = ["AdapterAggregator", "AdapterExecutor", "AdapterPersistor"]

_START, _GLOBAL = "start", "global"


class AdapterExecutor(Executor):
    """Runs the rounds of a site; the arguments are those of :class:`~monai_essa.federated.site.FederatedStage`.

    A round that fails is answered with an error, whose reason stays in the log of the site.
    """

    def __init__(
        self,
        bundle: str,
        overlays: Sequence[str] = (),
        values: Mapping[str, Any] | None = None,
        head: str = "exchanged",
        clip: float | None = None,
        noise: float = 0.0,
    ) -> None:
        super().__init__()
        self.stage = FederatedStage(bundle, tuple(overlays), dict(values or {}), head, clip, noise)

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Run a round and send its adapter."""
        if task_name != AppConstants.TASK_TRAIN:
            return make_reply(ReturnCode.TASK_UNKNOWN)
        site, number = str(fl_ctx.get_identity_name()), shareable.get_header(AppConstants.CURRENT_ROUND)
        try:
            received = from_shareable(shareable).data
            folder = Path(fl_ctx.get_engine().get_workspace().get_run_dir(fl_ctx.get_job_id())) / "rounds"
            folder.mkdir(parents=True, exist_ok=True)
            start = read_start(_app(fl_ctx) / _START)
            sent, weight = run_round(
                self.stage, start, received, site, folder, int(number), lambda: bool(abort_signal.triggered)
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the server goes on without this site
            self.log_error(fl_ctx, f"round {number} of {site}: {one_line(error)}")
            return make_reply(ReturnCode.EXECUTION_EXCEPTION)
        return DXO(DataKind.WEIGHTS, sent, {"weight": weight}).to_shareable()


class AdapterAggregator(Aggregator):
    """Averages the adapters of a round by the weights of the sites; what is refused is left out and named."""

    def __init__(self) -> None:
        super().__init__()
        self._updates: dict[str, tuple[Mapping[str, Any], float]] = {}
        self._left_out: dict[str, str] = {}

    def accept(self, shareable: Shareable, fl_ctx: FLContext) -> bool:
        """Take what a site sends, if it is the tensors of the job."""
        peer = fl_ctx.get_peer_context()
        site = Text(NAME, longest=64).check(peer.get_identity_name() if peer else None, "the name of a site")
        try:
            dxo = from_shareable(shareable)
            check_update(dxo.data, self._reference(fl_ctx))
            self._updates[site] = (dxo.data, check_weight(dxo.get_meta_prop("weight")))
        except Exception as error:  # noqa: BLE001 - it comes from outside
            self._left_out[site] = f"{site} is left out: {printable(one_line(error))}"
            self.log_error(fl_ctx, self._left_out[site])
            return False
        return True

    def aggregate(self, fl_ctx: FLContext) -> Shareable:
        """Average what was accepted, and write who took part."""
        reference, start = self._reference(fl_ctx), read_start(_app(fl_ctx) / _START)
        average = averaged(self._updates, start, reference)
        for reason in average.left_out.values():
            self.log_error(fl_ctx, f"left out: {reason}")
        number = int(fl_ctx.get_prop(AppConstants.CURRENT_ROUND))
        row = {
            "round": number,
            "shares": average.shares,
            "left_out": {**self._left_out, **average.left_out},
            "errors": average.errors,
        }
        folder = _global(fl_ctx)
        folder.mkdir(parents=True, exist_ok=True)
        write_text_whole(folder / f"round_{number}.json", json.dumps(row, indent=1) + "\n")
        self._updates, self._left_out = {}, {}
        return DXO(DataKind.WEIGHTS, average.values).to_shareable()

    def reset(self, fl_ctx: FLContext) -> None:
        """Forget what was accepted."""
        self._updates, self._left_out = {}, {}

    def _reference(self, fl_ctx: FLContext) -> dict[str, Any]:
        model = fl_ctx.get_prop(AppConstants.GLOBAL_MODEL)
        return dict(model[ModelLearnableKey.WEIGHTS])


class AdapterPersistor(LearnablePersistor):
    """Reads the start of a job, and writes the average of each round as the files that a stage writes."""

    def load(self, fl_ctx: FLContext) -> ModelLearnable:
        """Return where the job begins: its start, or the last average if the server was started again."""
        folder = _global(fl_ctx)
        start = read_start(folder if (folder / "adapter.safetensors").is_file() else _app(fl_ctx) / _START)
        return make_model_learnable(start.values(), {})

    def save(self, learnable: ModelLearnable, fl_ctx: FLContext) -> None:
        """Write the average."""
        start: Start = read_start(_app(fl_ctx) / _START)
        write_start(start.with_values(learnable[ModelLearnableKey.WEIGHTS]), _global(fl_ctx))
        self.log_info(fl_ctx, f"the average of the sites is in {_global(fl_ctx)}")


def _app(fl_ctx: FLContext) -> Path:
    return Path(fl_ctx.get_engine().get_workspace().get_app_dir(fl_ctx.get_job_id()))


def _global(fl_ctx: FLContext) -> Path:
    return Path(fl_ctx.get_engine().get_workspace().get_run_dir(fl_ctx.get_job_id())) / _GLOBAL
