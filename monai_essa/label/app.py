# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The MONAI Label app: the tasks of each bundle, and the checks of the requests for them."""

from __future__ import annotations

import locale
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from fastapi import HTTPException
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

from monai_essa import __version__
from monai_essa.error_line import one_line
from monai_essa.label.requests import scoring_record, strategy_record
from monai_essa.label.server import checked_origins, guard
from monai_essa.label.sessions import ReceivedSessions, is_received_file, upload_removed_if_refused
from monai_essa.label.store import AdapterStore
from monai_essa.label.studies import StudiesFolder
from monai_essa.label.tasks.infer import AdapterInfer, EntropyScoring, MostUncertain
from monai_essa.label.tasks.processes import end_tasks_with_server, end_with_server, mark_server
from monai_essa.label.tasks.ssa import UnlabelledStage
from monai_essa.label.tasks.training import LabelledStage, SiteTraining
from monai_essa.outside import NAME, Text, shown

__all__ = ["EssaLabelApp", "SteadyBatch"]

_logger = logging.getLogger(__name__)


class EssaLabelApp(MONAILabelApp):
    """Serve every bundle in the app folder's ``model/``, without looking up or downloading anything.

    An app folder needs a ``main.py`` that imports this class: ``monai-essa label init`` writes one.

    Args:
        app_dir: the app folder.
        studies: folder of the images, or the address of a DICOMweb server.
        conf: the settings of ``--conf``; this app reads ``origins``, other web pages that may talk to the server,
            separated by commas.

    Raises:
        FileNotFoundError: if ``model/`` holds no bundle with weights.
        ValueError: if a bundle's name is that of another one's SSA or not a plain name, or an origin is not valid.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        end_with_server()
        folder = Path(app_dir).resolve() / "model"
        self.bundles = {path.parents[1].name: path.parents[1] for path in sorted(folder.glob("*/models/model.pt"))}
        if not self.bundles:
            raise FileNotFoundError(
                f"{folder} holds no bundle with models/model.pt; write an app folder by "
                "monai-essa label init DIR --bundle BUNDLE"
            )
        for name in self.bundles:
            _check_bundle_name(name)
            if f"{name}_ssa" in self.bundles:
                raise ValueError(f"{name}_ssa is the SSA of the bundle {name}: rename the folder of the other bundle")
        told = [str(origin) for origin in settings.MONAI_LABEL_CORS_ORIGINS]
        told += [origin for origin in (conf or {}).get("origins", "").split(",") if origin.strip()]
        self.origins = checked_origins(told)
        self.adapters = {name: AdapterStore(bundle / "adapters") for name, bundle in self.bundles.items()}
        about = "Segmentation by bundles, with adapters that train on the labels submitted so far"
        super().__init__(app_dir, studies, conf, name="monai_essa", description=about, version=__version__)
        if settings.MONAI_LABEL_SESSIONS:
            path, expiry = settings.MONAI_LABEL_SESSION_PATH, settings.MONAI_LABEL_SESSION_EXPIRY
            self._sessions = ReceivedSessions(path, expiry)

    def init_datastore(self) -> Datastore:
        """Open the studies; a local folder is guarded."""
        if self.studies.startswith(("http://", "https://")):
            return super().init_datastore()
        return StudiesFolder(
            self.studies,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def init_infers(self) -> dict[str, InferTask]:
        """Make one inference task for each bundle."""
        return {name: AdapterInfer(path, self.conf, self.adapters[name]) for name, path in self.bundles.items()}

    def init_trainers(self) -> dict[str, TrainTask]:
        """Make two training tasks for each bundle: SSA, then the one on labels, as 3D Slicer's "ALL" runs them."""
        trainers: dict[str, TrainTask] = {}
        for name, bundle in self.bundles.items():
            adapters = self.adapters[name]
            trainers[f"{name}_ssa"] = SiteTraining(UnlabelledStage(bundle), bundle / "runs", adapters)
            trainers[name] = SiteTraining(LabelledStage(bundle, adapters), bundle / "runs", adapters)
        return trainers

    def init_strategies(self) -> dict[str, Strategy]:
        """Offer the order of the names, chance, and what the first bundle is least sure of."""
        return {"first": First(), "random": Random(), "epistemic": MostUncertain()}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """Score by the first bundle."""
        return {"epistemic": EntropyScoring(next(iter(self._infers.values())))}

    def init_batch_infer(self) -> Callable[..., Any]:
        """Make the task that infers on many images."""
        return SteadyBatch()

    def check_training(self, model: str | None, values: Mapping[str, Any]) -> None:
        """Refuse a request that the training would refuse, before a process is started for it.

        Args:
            model: name of the trainer; None for all of them: ``values`` then holds the fields for a single one under
                its name.
            values: the fields of the request.

        Raises:
            HTTPException: with status 404 for an unknown name.
            ValueError: as :meth:`SiteTraining.checked` says.
        """
        if model is not None:
            _known("training", model, self._trainers).checked(values)
            return
        for name, task in self._trainers.items():
            task.checked(_fields_of(name, self._trainers, values))

    def check_inference(self, model: str, values: Mapping[str, Any]) -> None:
        """Refuse a request that the inference would refuse, as :meth:`check_training` does for a training."""
        _known("model", model, self._infers).checked(values)

    def check_scoring(self, method: str | None, values: Mapping[str, Any]) -> None:
        """Refuse a request that the scoring would refuse, as :meth:`check_training` does for a training."""
        if method is not None:
            _known("scoring", method, self._scoring_methods)
        for name in self._scoring_methods:
            scoring_record().check(_fields_of(name, self._scoring_methods, values), "scoring")

    def check_strategy(self, strategy: str, values: Mapping[str, Any]) -> None:
        """Refuse a request for the next volume with an unknown strategy or unknown fields."""
        _known("strategy", strategy, self._strategies)
        strategy_record().check(values, "strategy")

    def check_model(self, model: str) -> None:
        """Refuse the name of an unknown model.

        Raises:
            HTTPException: with status 404.
        """
        _known("model", model, self._infers)

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Train.

        Raises:
            HTTPException: with status 400 or 409 for what a training refuses, where the server itself trains.
        """
        # MONAI Label mixes the fields for all trainers, by name, with those for this one.
        request = {name: value for name, value in request.items() if name not in self._trainers}
        try:
            return super().train(request)
        except (ValueError, RuntimeError) as error:
            if self._server_mode:
                raise HTTPException(400 if isinstance(error, ValueError) else 409, one_line(error)) from error
            raise

    def scoring(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Score."""
        request = {name: value for name, value in request.items() if name not in self._scoring_methods}
        return super().scoring(request, datastore)

    def on_init_complete(self) -> None:
        """Guard the server, which calls this at its start, and make trainings legible to it.

        MONAI Label reads what a training prints in the encoding of the server's locale. One character that it cannot
        decode, as those of tqdm's bar in ASCII, would leave the training "RUNNING" for ever.
        """
        from monailabel.app import app as server  # not at the top: a training builds this app without a server

        os.environ["PYTHONIOENCODING"] = f"{locale.getpreferredencoding(False)}:backslashreplace"
        mark_server()
        guard(server, self.origins)
        end_tasks_with_server()
        super().on_init_complete()

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Infer on an image of the studies, or on one that came with the request.

        Raises:
            HTTPException: with status 400 for another file of the server, 404 for an unknown model, image or adapter,
                422 for an image that cannot be segmented.
        """
        with upload_removed_if_refused(request.get("image"), request.get("label")):
            self._check_image(request, datastore)
            return super().infer(request, datastore)

    def _check_image(self, request: Mapping[str, Any], datastore: Datastore | None) -> None:
        _known("model", request.get("model"), self._infers)
        image = request.get("image")
        if isinstance(image, str) and not (os.path.exists(image) and is_received_file(image)):
            store = datastore or self.datastore()
            if isinstance(store, StudiesFolder):
                store.known(image)
            elif os.path.exists(image):
                raise HTTPException(400, f"image {shown(image)}: expected an image id, got a file of the server")


class SteadyBatch(BatchInferTask):
    """Infer on a batch as MONAI Label does, but go on after an image that is refused, and run on a CPU too."""

    def __call__(self, request: dict[str, Any], datastore: Datastore, infer: Callable[..., Any]) -> dict[str, Any]:
        """Infer on each image and return the results by image id; a refused image has the reason under ``error``."""

        def tried(one: dict[str, Any], store: Datastore) -> dict[str, Any]:
            try:
                return dict(infer(one, store))
            except HTTPException as error:
                _logger.warning("%s: %s", one["image"], error.detail)
                return {"error": error.detail}

        if not torch.cuda.is_available():
            request = request | {"multi_gpu": False}  # MONAI Label divides the images by the number of GPUs
        return dict(super().__call__(request, datastore, tried))


def _known(kind: str, name: Any, tasks: Mapping[str, Any]) -> Any:
    """Return the task of a name.

    Raises:
        HTTPException: with status 404 for an unknown one.
    """
    if not isinstance(name, str) or name not in tasks:
        raise HTTPException(404, f"{kind} {shown(name)}: expected one of {', '.join(tasks)}")
    return tasks[name]


def _fields_of(name: str, tasks: Mapping[str, Any], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields of a request that one of several tasks reads: the shared ones, and those under its name."""
    own = values.get(name, {})
    shared = {field: value for field, value in values.items() if field not in tasks}
    return {**shared, **own} if isinstance(own, Mapping) else own


def _check_bundle_name(name: str) -> None:
    try:
        Text(NAME, 100).check(name, "bundle")
    except ValueError as error:
        raise ValueError(f"{error}; rename the bundle's folder") from error
