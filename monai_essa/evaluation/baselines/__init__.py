# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What an adapted network is compared with: closed-form floors, and masks or scores of other tools."""

from __future__ import annotations

from monai_essa.evaluation.baselines.atlas import AtlasVote, majority_vote
from monai_essa.evaluation.baselines.classifier import RidgeClassifier
from monai_essa.evaluation.baselines.ridge import Ridge, fit_ridge
from monai_essa.evaluation.baselines.segmenter import RidgeSegmenter

__all__ = ["AtlasVote", "Ridge", "RidgeClassifier", "RidgeSegmenter", "fit_ridge", "majority_vote"]
