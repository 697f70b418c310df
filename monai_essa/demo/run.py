# Copyright (c) The monai_essa authors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Runs the demo from the data to report.html."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from monai.bundle import ConfigParser
from tqdm import tqdm

from monai_essa.data import load_datalist
from monai_essa.demo.demo_data import DemoData, cohort_data
from monai_essa.demo.demo_report import DemoOutcome, demo_content, test_case
from monai_essa.demo.majority_vote import majority_vote_dice
from monai_essa.demo.outcome import TrainedStage, mean_by_case, read_dice
from monai_essa.demo.own_data import own_data
from monai_essa.demo.plan import DemoPlan, DemoSize
from monai_essa.demo.quiet import quiet_libraries
from monai_essa.demo.stage import Stage, run_stage, write_stage
