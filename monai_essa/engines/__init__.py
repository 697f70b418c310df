# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What monai.engines needs from us: one training step for all stages, keyed randomness and handlers; no trainer."""

from __future__ import annotations

from monai_essa.engines.best_epoch import BestMetric, RestoreBest, check_foreground, check_validation_interval
from monai_essa.engines.crop_size import check_crop_size
from monai_essa.engines.equal_steps import extra_epochs
from monai_essa.engines.fingerprint import (
    config_fingerprints,
    datalist_fingerprint,
    file_fingerprint,
    file_fingerprints,
    setting_fingerprints,
)
from monai_essa.engines.frozen_check import FrozenCheck
from monai_essa.engines.initialisation import initialise
from monai_essa.engines.loss_log import LossLog
from monai_essa.engines.model_versions import next_run_folder, publish_model
from monai_essa.engines.parameter_groups import parameter_groups, warmup_cosine
from monai_essa.engines.precision import default_precision
from monai_essa.engines.prepare_batch import prepare_unlabelled_batch, unlabelled_keys
from monai_essa.engines.pretext_head import PretextHead, load_pretext_head, start_pretext_head
from monai_essa.engines.run_checkpoint import RunCheckpoint
from monai_essa.engines.run_folder import RunRecord, finish_run, open_run, run_iterations, run_trainer, shown_settings
from monai_essa.engines.sampler_epoch import SamplerEpoch
from monai_essa.engines.stage_network import (
    adapted_network,
    merged_network,
    pretext_network,
    supervised_network,
    trained_network,
)
from monai_essa.engines.stage_outputs import StageOutputs
from monai_essa.engines.supervised import Supervised
from monai_essa.engines.train_step import TrainStep
from monai_essa.engines.training_progress import TrainingProgress
from monai_essa.engines.validation_step import ValidationStep
from monai_essa.error_line import root_cause, show_cause_last
from monai_essa.switch import switch

__all__ = [
    "BestMetric",
    "FrozenCheck",
    "LossLog",
    "PretextHead",
    "RestoreBest",
    "RunCheckpoint",
    "RunRecord",
    "SamplerEpoch",
    "StageOutputs",
    "Supervised",
    "TrainStep",
    "TrainingProgress",
    "ValidationStep",
    "adapted_network",
    "check_crop_size",
    "check_foreground",
    "check_validation_interval",
    "config_fingerprints",
    "datalist_fingerprint",
    "default_precision",
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
    "prepare_unlabelled_batch",
    "pretext_network",
    "publish_model",
    "root_cause",
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
]
