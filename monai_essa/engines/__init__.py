# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What monai.engines needs from us: one training step for all stages, keyed randomness and handlers; no trainer."""

from __future__ import annotations

from monai_essa.engines.checkpoint import RunCheckpoint
from monai_essa.engines.epochs import (
    BestMetric,
    RestoreBest,
    SamplerEpoch,
    check_foreground,
    check_validation_interval,
    extra_epochs,
    run_trainer,
)
from monai_essa.engines.folder.fingerprints import (
    config_fingerprints,
    datalist_fingerprint,
    file_fingerprint,
    file_fingerprints,
    setting_fingerprints,
)
from monai_essa.engines.folder.outputs import StageOutputs, next_run_folder, publish_model
from monai_essa.engines.folder.run_folder import RunRecord, finish_run, open_run, run_iterations, shown_settings
from monai_essa.engines.networks import (
    adapted_network,
    check_crop_size,
    initialise,
    merged_network,
    pretext_network,
    supervised_network,
    trained_network,
)
from monai_essa.engines.objectives import (
    PretextHead,
    Supervised,
    load_pretext_head,
    prepare_unlabelled_batch,
    start_pretext_head,
    unlabelled_keys,
)
from monai_essa.engines.parameters import FrozenCheck, parameter_groups, warmup_cosine
from monai_essa.engines.progress import LossLog, LossWeight, TrackedMetrics, TrainingProgress, patch_introduction
from monai_essa.engines.steps import TrainStep, ValidationStep, default_precision
from monai_essa.engines.supervised.average import UseAverage
from monai_essa.engines.supervised.patience import Patience
from monai_essa.engines.supervised.probabilities import AveragedInferer, ensemble_networks, warn_of_sides
from monai_essa.error_line import show_cause_last
from monai_essa.outside import switch

__all__ = [
    "AveragedInferer",
    "BestMetric",
    "FrozenCheck",
    "LossLog",
    "LossWeight",
    "Patience",
    "PretextHead",
    "RestoreBest",
    "RunCheckpoint",
    "RunRecord",
    "SamplerEpoch",
    "StageOutputs",
    "Supervised",
    "TrackedMetrics",
    "TrainStep",
    "TrainingProgress",
    "UseAverage",
    "ValidationStep",
    "adapted_network",
    "check_crop_size",
    "check_foreground",
    "check_validation_interval",
    "config_fingerprints",
    "datalist_fingerprint",
    "default_precision",
    "ensemble_networks",
    "extra_epochs",
    "file_fingerprint",
    "file_fingerprints",
    "finish_run",
    "initialise",
    "load_pretext_head",
    "merged_network",
    "next_run_folder",
    "open_run",
    "parameter_groups",
    "patch_introduction",
    "prepare_unlabelled_batch",
    "pretext_network",
    "publish_model",
    "run_iterations",
    "run_trainer",
    "setting_fingerprints",
    "show_cause_last",
    "shown_settings",
    "start_pretext_head",
    "supervised_network",
    "switch",
    "trained_network",
    "unlabelled_keys",
    "warmup_cosine",
    "warn_of_sides",
]
