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

# %% [markdown]
# # Quick start: adapt, train, save, merge
#
# A network was pretrained on the scans of one scanner. A site has another scanner, unlabelled scans and no GPU to
# spare. This page adapts the network to those scans by training a few of its tensors, saves what learned as a small
# file, and gives back a plain MONAI network. It takes about half a minute on two CPU cores.
#
# **Data.** Without further ado the *demo cohort*: deformed copies of the MNI152 brain, imaged by two made-up
# scanners. No volume is a patient. MNI152 (ICBM 2009a): Copyright (C) 1993-2004 Louis Collins, McConnell Brain
# Imaging Centre, Montreal Neurological Institute, McGill University; free to use, copy, modify and distribute with
# that notice. To run on real scans, set the environment variable `DATA` to a folder in the style of the Medical
# Segmentation Decathlon, such as `Task04_Hippocampus` (Simpson et al. 2019, CC BY-SA 4.0).
#
# **Install.** In a clone of the repository: `pip install ".[tutorials]"`. Research software, not a medical device.

# %%
import os
import tempfile
from pathlib import Path

import torch
from IPython.display import Image
from monai.networks.nets import ViT
from monai.transforms import Compose, LoadImage, NormalizeIntensity, Orientation, ResizeWithPadOrCrop, Spacing

from monai_essa import adapt, disable_adapter, load_adapter, load_weights, merge, save_adapter, summary
from monai_essa.data import VolumeReader, load_datalist
from monai_essa.data.cohort import CohortSize
from monai_essa.demo.demo_data import cohort_data
from monai_essa.demo.own_data import own_data
from monai_essa.methods import APLA
from monai_essa.pretext import MAE, MAEDecoder
from monai_essa.report.charts import loss_curves
from monai_essa.report.figures import figure_png
from monai_essa.report.image_panels import reconstruction_panel

WORK = Path(tempfile.mkdtemp(prefix="essa_"))
SHAPE = (48, 64, 48)
size = CohortSize(source=16, unlabeled=12, training=1, validation=1, test=4)
if "DATA" in os.environ:
    data = own_data(Path(os.environ["DATA"]), WORK / "datalist.json", size, SHAPE, seed=0)
else:
    data = cohort_data(WORK / "cohort", size, seed=0)
print(*data.about, sep="\n")

# %% [markdown]
# MONAI's transforms read the scans: 16 of scanner A, on which the network will be pretrained, 12 of the site's
# scanner B, and 4 more of scanner B that nothing trains on. Labels are not read at all.

# %%
read = Compose(
    [
        LoadImage(reader=VolumeReader(), ensure_channel_first=True),
        Orientation("RAS", labels=None),
        Spacing(data.card.spacing),
        NormalizeIntensity(),
        ResizeWithPadOrCrop(SHAPE, mode="minimum"),
    ]
)


def volumes(section: str) -> torch.Tensor:
    items = load_datalist(data.datalist, data.sections[section], keys=["image"])
    return torch.stack([read(item["image"]).as_tensor() for item in items])  # (N, 1, x, y, z)


source, target, unseen = volumes("source"), volumes("unlabeled"), volumes("test")
print("pretraining", tuple(source.shape), "adaptation", tuple(target.shape), "unseen", tuple(unseen.shape))

# %% [markdown]
# ## The pretrained network
#
# You would download one. Here we make it: a small ViT learns to fill in masked patches of scanner A (MAE, every
# parameter). The loop is an ordinary one; the same function trains the few tensors later.


# %%
DECODER = MAEDecoder(hidden_size=96, depth=2, num_heads=6)


def build() -> ViT:
    return ViT(1, SHAPE, patch_size=8, hidden_size=96, mlp_dim=384, num_layers=6, num_heads=6, qkv_bias=True)


def train(objective: MAE, scans: torch.Tensor, steps: int, lr: float) -> dict[str, list[float]]:
    optimizer = torch.optim.AdamW((p for p in objective.parameters() if p.requires_grad), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    order = torch.Generator().manual_seed(0)
    log = {"iteration": [], "loss": []}
    for step in range(1, steps + 1):
        if step in (1, steps) or step % 20 == 0:
            log["iteration"].append(step)
            log["loss"].append(score(objective))
        batch = scans[torch.randint(len(scans), (4,), generator=order)]
        loss = objective(batch, generator=order)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return log


@torch.no_grad()
def score(objective: MAE) -> float:
    """The loss on scanner B's unseen scans, under masks that stay the same."""
    return objective(unseen, generator=torch.Generator().manual_seed(7))["loss"].item()


torch.manual_seed(0)
pretrained = MAE(build(), decoder=DECODER)
log_pretraining = train(pretrained, source, steps=150, lr=2e-3)
torch.save(pretrained.encoder.state_dict(), WORK / "vit.pt")
print(f"loss on unseen scans of scanner B: {score(pretrained):.3f}")

# %% [markdown]
# ## Adapt, train, save, merge
#
# The four calls. `adapt` freezes the network but for what the method names: APLA trains the output projection of each
# attention, about a twelfth of the encoder. The pretext decoder goes on learning beside it; it is thrown away in the
# end.

# %%
network = build()
print(load_weights(network, WORK / "vit.pt"))

adapt(network, APLA())
print(summary(network))

objective = MAE(network, decoder=DECODER)
objective.decoder.load_state_dict(pretrained.decoder.state_dict())  # go on with the decoder of the pretraining
log_adaptation = train(objective, target, steps=150, lr=2e-3)
print(f"loss on unseen scans of scanner B: {score(objective):.3f}")

file = save_adapter(network, WORK / "scanner_b.safetensors")
print(f"{file.name}: {file.stat().st_size / 1e6:.2f} MB; vit.pt: {(WORK / 'vit.pt').stat().st_size / 1e6:.2f} MB")

plain = merge(network).eval()  # a stock ViT with stock keys; `network` is left as it is

# %%
logs = {"pretraining on scanner A": log_pretraining, "adaptation to scanner B (APLA)": log_adaptation}
logs = {name: {column: torch.tensor(values).numpy() for column, values in log.items()} for name, log in logs.items()}
Image(figure_png(loss_curves(logs, title="Masked autoencoding: loss on unseen scans of scanner B")))

# %% [markdown]
# ## Did it learn this scanner?
#
# An unseen scan of scanner B, three quarters of its patches masked, filled in before the adaptation and after it. (A
# prediction is given the brightness and contrast of each true patch, as in the figures of the MAE paper; what is
# inside is predicted.) Look at the gap between the hemispheres: dark on scanner A, and bright on scanner B.


# %%
def picture(objective: MAE) -> Image:
    shown = objective.eval().reconstruct(unseen[:1], generator=torch.Generator().manual_seed(7))
    images = [shown[name][0, 0].numpy() for name in ("original", "masked", "prediction")]
    return Image(figure_png(reconstruction_panel(*images, data.card.spacing)), width=560)


picture(pretrained)

# %%
picture(objective)

# %% [markdown]
# ## What the promises mean
#
# The merged network is MONAI's own class with its own keys, and computes what the adapted network computes. With the
# adapter disabled the network is the pretrained one, bit for bit. And the file puts the adapter onto the same base
# again, anywhere.

# %%
fresh = build()
fresh.load_state_dict(plain.state_dict())  # strict: every key fits a stock ViT
network.eval()
base = build().eval()
base.load_state_dict(torch.load(WORK / "vit.pt", weights_only=True))
again = load_adapter(base, file)

with torch.no_grad():
    adapted_tokens, _ = network(unseen)
    print("merged against adapted, largest difference:", f"{(plain(unseen)[0] - adapted_tokens).abs().max():g}")
    print("loaded from the file, equal:", torch.equal(again(unseen)[0], adapted_tokens))
    with disable_adapter(network):
        print(
            "adapter disabled, equal to the pretrained network:",
            torch.equal(network(unseen)[0], pretrained.encoder(unseen)[0]),
        )

# %% [markdown]
# ## What next
#
# - With few labels: [3_tpp_few_labels.ipynb](3_tpp_few_labels.ipynb) · what it costs:
#   [5_what_it_costs.ipynb](5_what_it_costs.ipynb).
# - On a real ViT-B: `ViT(1, (96, 96, 96), 16, qkv_bias=True)`, your weights in `load_weights`, `lean(network)` after
#   `adapt`.
# - Without writing a loop: the bundle `essa_ssa`, run by `python -m monai.bundle run`.
# - One seed, a small network, template-derived scans: the numbers show that every step runs, not what your scans will
#   give.
