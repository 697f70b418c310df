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

"""Dictionary transforms for volumes that MONAI lacks."""

from __future__ import annotations

from monai_essa.transforms.check_volume import CheckVolumed
from monai_essa.transforms.crop_centres import MarkCropCentresd
from monai_essa.transforms.foreground import ClipForegroundPercentilesd, MarkForegroundd, foreground_threshold

__all__ = ["CheckVolumed", "ClipForegroundPercentilesd", "MarkCropCentresd", "MarkForegroundd", "foreground_threshold"]
