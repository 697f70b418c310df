# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""The MONAI Label app: inference by bundles with adapters, training of adapters, active learning, guarded paths."""

from __future__ import annotations

import locale
import os
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

from monai_essa.label.adapter_infer import AdapterInfer
from monai_essa.label.adapter_store import AdapterStore
from monai_essa.label.labelled_stage import LabelledStage
from monai_essa.label.site_training import SiteTraining
from monai_essa.label.status_page import status_router
from monai_essa.label.studies_folder import StudiesFolder, is_received_file
from monai_essa.label.uncertainty import EntropyScoring, MostUncertain
from monai_essa.label.unlabelled_stage import UnlabelledStage
from monai_essa.version import __version__

__all__ = ["EssaLabelApp"]


class EssaLabelApp(MONAILabelApp):
    """Serves every bundle in the app folder's ``model/``; nothing is looked up or downloaded.

    An app folder needs a ``main.py`` that imports this class: ``monai-essa label init`` writes one.

    Args:
        app_dir: the app folder.
        studies: folder of the images, or the address of a DICOMweb server.
        conf: of ``--conf``; this app reads none.

    Raises:
        FileNotFoundError: if ``model/`` holds no bundle with weights.
        ValueError: if a bundle has the name of another one's SSA.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        folder = Path(app_dir) / "model"
        self.bundles = {path.parents[1].name: path.parents[1] for path in sorted(folder.glob("*/models/model.pt"))}
        if not self.bundles:
            raise FileNotFoundError(
                f"{folder} holds no bundle with models/model.pt; write an app folder by "
                "monai-essa label init DIR --bundle BUNDLE"
            )
        for name in self.bundles:
            if f"{name}_ssa" in self.bundles:
                raise ValueError(f"{name}_ssa is the SSA of the bundle {name}: rename the folder of the other bundle")
        self.adapters = {name: AdapterStore(bundle / "adapters") for name, bundle in self.bundles.items()}
        about = "Segmentation by bundles, with adapters that train on the labels submitted so far"
        super().__init__(app_dir, studies, conf, name="monai_essa", description=about, version=__version__)

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

    def on_init_complete(self) -> None:
        """Add the page of the status to the server, which calls this at its start, and make trainings legible to it.

        MONAI Label reads what a training prints in the encoding of the server's locale. One character that it cannot
        decode, as those of tqdm's bar in ASCII, would leave the training "RUNNING" for ever.
        """
        from monailabel.app import app as server  # not at the top: a training builds this app without a server

        os.environ["PYTHONIOENCODING"] = f"{locale.getpreferredencoding(False)}:backslashreplace"
        server.include_router(status_router())
        super().on_init_complete()

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Infer on an image of the studies, or on one that came with the request.

        Raises:
            HTTPException: with status 400 for another file of the server, 404 for an unknown image or adapter.
        """
        image = request.get("image")
        if isinstance(image, str) and not (os.path.exists(image) and is_received_file(image)):
            store = datastore or self.datastore()
            if isinstance(store, StudiesFolder):
                store.known(image)
            elif os.path.exists(image):
                raise HTTPException(400, f"image {image!r}: expected an image id, got a file of the server")
        return super().infer(request, datastore)
