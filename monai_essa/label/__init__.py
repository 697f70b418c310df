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


"""A MONAI Label app that trains adapters: needs the extra ``monai_essa[label]``, in an environment of its own."""

from __future__ import annotations

from monai_essa.label.torchvision_operators import declare_operators

declare_operators()

from monai_essa.label.app import EssaLabelApp  # noqa: E402 - MONAI Label imports torchvision

__all__ = ["EssaLabelApp"]
