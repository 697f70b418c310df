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

"""The demo: pre-train on one scanner, adapt to another, segment with three labels; by the shipped bundles.

Needs the extra [demo]: nilearn for the cohort, matplotlib and jinja2 for the report.
"""

from __future__ import annotations

from monai_essa.demo.plan import DemoSize, Epochs
from monai_essa.demo.run import run_demo

__all__ = ["DemoSize", "Epochs", "run_demo"]
