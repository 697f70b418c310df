# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

# %% [markdown]
# # Quick start: adapt, train, save, merge in forty lines
#
# A network was pretrained on scans from one scanner. A site has another scanner, unlabelled scans and no GPU to
# spare. This page adapts the network to those scans by training a few of its tensors, saves the trained tensors as a
# small file, and returns a plain MONAI network. It takes about half a minute on two CPU cores.
#
# **Data.** By default this page uses the *demo cohort*: deformed copies of the MNI152 brain, imaged by two simulated
# scanners. No volume shows a patient. MNI152 (ICBM 2009a): Copyright (C) 1993-2004 Louis Collins, McConnell Brain
# Imaging Centre, Montreal Neurological Institute, McGill University; free to use, copy, modify and distribute with
# that notice. To run on real scans, set the environment variable `DATA` to a folder in the style of the Medical
# Segmentation Decathlon, such as `Task04_Hippocampus` (Simpson et al. 2019, CC BY-SA 4.0).
#
# **Install.** In a clone of the repository: `pip install ".[tutorials]"`. This is research software,
# not a medical device.

# %% [markdown]
# ## What a site has
#
# The site has scans without labels (12 here, and 4 more that are never trained on) and the weights of a pretrained
# network. You would download such weights; here the bundle `essa_ssa` trains a small ViT to fill in masked patches of
# 16 other scans (scanner A).

# %%
import logging
import os
import tempfile
from pathlib import Path

from monai.bundle import run

from monai_essa.bundling.folder import bundle_folder
from monai_essa.data import load_datalist
from monai_essa.demo.cohort import CohortSize
from monai_essa.demo.data import cohort_data, own_data

logging.disable(logging.WARNING)  # what the libraries say of themselves would fill this page
os.chdir(tempfile.mkdtemp(prefix="essa_"))
SHAPE = (48, 64, 48)
count = CohortSize(source=16, unlabeled=12, training=1, validation=1, test=4)
if "DATA" in os.environ:
    data = own_data(Path(os.environ["DATA"]), Path("datalist.json").absolute(), count, SHAPE, seed=0)
else:
    data = cohort_data(Path("cohort").absolute(), count, seed=0)
print(*data.about, sep="\n")

decoder = {"hidden_size": 96, "depth": 2, "num_heads": 6}
run(
    config_file=[str(bundle_folder("essa_ssa") / "configs" / name) for name in ("train.yaml", "method_full.yaml")],
    logging_file=False,
    datalist=str(data.datalist),
    section=data.sections["source"],
    spacing=list(data.card.spacing),
    img_size=list(SHAPE),
    patch_size=8,
    hidden_size=96,
    mlp_dim=384,
    num_layers=6,
    num_heads=6,
    batch_size=4,
    samples_per_epoch=120,
    max_epochs=5,
    val_interval=5,
    lr=2.0e-3,
    output_dir="pretrained",
    **{"objective#decoder": {"_target_": "monai_essa.pretext.MAEDecoder", **decoder}},
)
scans, unseen = (
    [item["image"] for item in load_datalist(data.datalist, data.sections[name], keys=["image"])]
    for name in ("unlabeled", "test")
)

# %% [markdown]
# ## The forty lines
#
# This is the whole program, imports included. `load_weights` says what it loaded and refuses what does not fit.
# `adapt` freezes the network except the tensors that the method names: APLA trains the output projection of each
# attention, 7 % of the encoder here. The training loop is an ordinary one. The decoder of the pretext task is trained
# with the network and discarded at the end.

# %%
import torch
from monai.networks.nets import ViT
from monai.transforms import Compose, LoadImaged, Orientationd, ResizeWithPadOrCropd, ScaleIntensityd, Spacingd

from monai_essa import adapt, load_weights, merge, save_adapter, summary
from monai_essa.data import VolumeReader
from monai_essa.data.transforms import ClipForegroundPercentilesd
from monai_essa.engines import load_pretext_head
from monai_essa.methods import APLA
from monai_essa.pretext import MAE, MAEDecoder

read = Compose(  # as the bundle read the scans of scanner A; background is 0, and so is what is padded
    [
        LoadImaged("image", reader=VolumeReader, ensure_channel_first=True),
        Orientationd("image", "RAS", labels=None),
        Spacingd("image", data.card.spacing),
        ClipForegroundPercentilesd("image"),
        ScaleIntensityd("image", channel_wise=True),
        ResizeWithPadOrCropd("image", SHAPE),
    ]
)
images = torch.stack([read({"image": path})["image"].as_tensor() for path in scans])  # (N, 1, x, y, z)

network = ViT(1, SHAPE, patch_size=8, hidden_size=96, mlp_dim=384, num_layers=6, num_heads=6, qkv_bias=True)
print(load_weights(network, "pretrained/model.pt"))
adapt(network, APLA())
print(summary(network).table())

objective = load_pretext_head(MAE(network, decoder=MAEDecoder(**decoder)), "pretrained/pretext_head.safetensors")
optimizer = torch.optim.AdamW((p for p in objective.parameters() if p.requires_grad), lr=1e-3)
random, losses = torch.Generator().manual_seed(0), []
for _ in range(150):
    batch = images[torch.randint(len(images), (4,), generator=random)]
    loss = objective(batch, generator=random)["loss"]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())

file = save_adapter(network, "site.safetensors")
plain = merge(network)  # a stock ViT with stock keys; `network` is left as it is

# %% [markdown]
# ## Did it learn this scanner?
#
# The loss is measured on the four unseen scans, with three quarters of their patches masked, by the same masks before
# and after the adaptation.

# %%
from IPython.display import Image

from monai_essa.report.charts import figure_png, loss_curves
from monai_essa.report.panels import reconstruction_panel

sizes = {path.name: path.stat().st_size / 1e6 for path in (file, Path("pretrained/model.pt"))}
print(*(f"{name}: {size:.2f} MB" for name, size in sizes.items()))


def build() -> ViT:
    return ViT(1, SHAPE, patch_size=8, hidden_size=96, mlp_dim=384, num_layers=6, num_heads=6, qkv_bias=True)


before = MAE(build(), decoder=MAEDecoder(**decoder))
before.encoder.load_state_dict(torch.load("pretrained/model.pt", weights_only=True))
load_pretext_head(before, "pretrained/pretext_head.safetensors")
held_out = torch.stack([read({"image": path})["image"].as_tensor() for path in unseen])


@torch.no_grad()
def score(objective: MAE) -> float:
    return objective.eval()(held_out, generator=torch.Generator().manual_seed(7))["loss"].item()


print(f"loss on the unseen scans: {score(before):.3f} before, {score(objective):.3f} after")
tens = torch.tensor(losses).unflatten(0, (-1, 10)).mean(1)
log = {"iteration": torch.arange(10, len(losses) + 1, 10).numpy(), "loss": tens.numpy()}
curves = {"APLA on the site's scans, means of ten steps": log}
Image(figure_png(loss_curves(curves, title="Masked autoencoding: training loss")))

# %% [markdown]
# The figure shows one of them, filled in before and after the adaptation. (Each predicted patch gets the brightness
# and contrast of the true patch, as in the figures of the MAE paper; its content is predicted.) In the demo cohort,
# look at the gap between the hemispheres: it is dark on scanner A and bright on scanner B.


# %%
def picture(objective: MAE) -> Image:
    shown = objective.eval().reconstruct(held_out[:1], generator=torch.Generator().manual_seed(7))
    planes = [shown[name][0, 0].numpy() for name in ("original", "masked", "prediction")]
    return Image(figure_png(reconstruction_panel(*planes, data.card.spacing)), width=560)


picture(before)

# %%
picture(objective)

# %% [markdown]
# ## What the promises mean
#
# The merged network has MONAI's own class and keys, and computes what the adapted network computes. With the adapter
# disabled the network is the pretrained one, bit for bit. The file puts the adapter onto the same base again, on any
# computer.

# %%
from monai_essa import disable_adapter, load_adapter

fresh = build()
fresh.load_state_dict(plain.state_dict())  # strict: every key fits a stock ViT
again = build().eval()
again.load_state_dict(before.encoder.state_dict())
load_adapter(again, file)

plain.eval()
with torch.no_grad():
    adapted_tokens, _ = network(held_out)
    print("merged against adapted, largest difference:", f"{(plain(held_out)[0] - adapted_tokens).abs().max():g}")
    print("loaded from the file, equal:", torch.equal(again(held_out)[0], adapted_tokens))
    with disable_adapter(network):
        same = torch.equal(network(held_out)[0], before.encoder(held_out)[0])
        print("adapter disabled, equal to the pretrained network:", same)

# %% [markdown]
# ## What next
#
# - To adapt to your own folder of scans without writing a loop, see [2_ssa_swin_unetr.ipynb](2_ssa_swin_unetr.ipynb);
#   to train with few labels, [3_tpp_few_labels.ipynb](3_tpp_few_labels.ipynb); to see what it costs,
#   [5_what_it_costs.ipynb](5_what_it_costs.ipynb).
# - For a real ViT-B use `ViT(1, (96, 96, 96), 16, qkv_bias=True)`, pass your weights to `load_weights`, and call
#   `lean(network)` after `adapt`.
# - This page used one seed, a small network and template-derived scans: its numbers show that every step runs, not
#   what to expect on your scans.
