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

"""One view of an encoder, whichever MONAI network holds it."""

from __future__ import annotations

from monai_essa.networks.classification import classification_network
from monai_essa.networks.encoder_view import encoder_view
from monai_essa.networks.feature_map_encoder import FeatureMapEncoder
from monai_essa.networks.position_embedding import interpolate_positions
from monai_essa.networks.token_encoder import TokenEncoder

__all__ = ["FeatureMapEncoder", "TokenEncoder", "classification_network", "encoder_view", "interpolate_positions"]
