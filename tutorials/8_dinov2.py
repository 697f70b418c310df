# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

# %% [markdown]
# # Self-distillation on your own scans, in 2-D and 3-D
#
# DINOv2 lets a network learn from views of a scan: a student sees one view, its moving average, the teacher, sees
# another, and both should say the same. This page adapts a small pretrained ViT by it, in 3-D on volumes and in 2-D on
# slices, watches whether the features collapse, and draws them before and after. It takes about a minute on two CPU
# cores.
#
# **Numbers this small mean nothing.** The networks are tiny and learn for seconds; the page shows that every part runs.
#
# **Data.** This page uses the *demo cohort*: deformed copies of the MNI152 brain, imaged by a simulated scanner.
# No volume shows a patient. MNI152 (ICBM 2009a): Copyright (C) 1993-2004 Louis Collins, McConnell Brain
# Imaging Centre, Montreal Neurological Institute, McGill University; free to use, copy, modify and distribute with
# that notice. With your own scans, `monai-essa adapt --objective dinov2`, shown at the end, does this with controls.
#
# **Install.** In a clone of the repository: `pip install ".[tutorials]"`. This is research software,
# not a medical device.

# %%
import json
import logging
import os
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from IPython.display import Image
from monai.bundle import run

from monai_essa.bundling.folder import bundle_folder
from monai_essa.demo.cohort import CohortSize, make_cohort

logging.disable(logging.WARNING)  # what the libraries say of themselves would fill this page
os.chdir(tempfile.mkdtemp(prefix="essa_"))  # all paths below are relative to this new folder
make_cohort("site", CohortSize(source=0, unlabeled=20, training=0, validation=0, test=0))
SIZES = {"hidden_size": 48, "mlp_dim": 96, "num_layers": 2, "num_heads": 4, "patch_size": 8, "logging_file": False}


def configs(*names: str) -> list[str]:
    """Return configs of the bundle of self-supervised adaptation."""
    return [str(bundle_folder("essa_ssa") / "configs" / name) for name in ("train.yaml", *names)]


# %% [markdown]
# ## A base
#
# Self-distillation refines what a network can tell apart; from random weights there is nothing to refine. You would
# start from public weights. Here a tiny ViT learns from the same scans by MAE.

# %%
volumes = SIZES | {
    "datalist": "site/datalist.json",
    "section": "target#unlabeled",
    "spacing": [3.75, 3.75, 3.75],
    "img_size": [32, 32, 32],
}
run(
    config_file=configs("method_full.yaml"),
    batch_size=8,
    samples_per_epoch=48,
    max_epochs=1,
    lr=2.0e-3,
    output_dir="base",
    **volumes,
)

# %% [markdown]
# ## DINOv2 in 3-D
#
# The overlay `objective_dinov2.yaml` makes the views, the teacher and the losses. With APLA the output projections of
# the attention learn, and the teacher is an average of these alone: all other tensors are the student's, in the same
# memory. `prototypes` is small because the images are few.

# %%
views = {"batch_size": 8, "samples_per_epoch": 32, "max_epochs": 2, "prototypes": 128}
run(config_file=configs("objective_dinov2.yaml"), pretrained="base/model.pt", output_dir="volumes", **volumes | views)
for line in Path("volumes/losses.jsonl").read_text().splitlines():
    row = json.loads(line)
    print({name: round(row[name], 3) for name in ("epoch", "loss", "dino", "ibot", "koleo", "entropy")})
print(f"uniform targets have an entropy of {np.log(views['prototypes']):.3f}")

# %% [markdown]
# The three principal components of the patch tokens as colours, for two scans that were held out. Patches of one
# colour are alike to the network.

# %%
Image("volumes/features.png", width=640)

# %% [markdown]
# ## The same in 2-D
#
# Slices are images of one more overlay. The three objectives of views take the same keys, so that another one is
# another file: `objective_contrastive.yaml` compares patients and needs eight of them in a batch,
# `objective_diet.yaml` makes each image a class of its own and fits any batch.

# %%
(slices := Path("slices")).mkdir()
for number, item in enumerate(json.loads(Path("site/datalist.json").read_text())["target"]["unlabeled"]):
    volume = nib.load(Path("site") / item["image"])
    middle = np.asarray(volume.dataobj)[:, :, volume.shape[2] // 2 : volume.shape[2] // 2 + 1]
    nib.save(nib.Nifti1Image(middle, volume.affine), slices / f"slice_{number:02d}.nii.gz")
listed = {"unlabeled": [{"image": path.name} for path in sorted(slices.glob("*.nii.gz"))]}
(slices / "dataset.json").write_text(json.dumps(listed))

pictures = SIZES | {"dataset_dir": "slices", "img_size": [64, 64], "samples_per_epoch": 24, "max_epochs": 2}
run(
    config_file=configs("images_2d.yaml", "method_full.yaml"),
    batch_size=16,
    lr=2.0e-3,
    output_dir="base_2d",
    **pictures,
)
for objective in ("dinov2", "contrastive", "diet"):
    files = configs("images_2d.yaml", f"objective_{objective}.yaml")
    run(
        config_file=files,
        pretrained="base_2d/model.pt",
        output_dir=objective,
        **pictures | {"batch_size": 8} | ({"prototypes": 128} if objective == "dinov2" else {}),
    )
    first, last = (json.loads(line) for line in Path(objective, "losses.jsonl").read_text().splitlines())
    print(f"{objective}: loss {first['loss']:.3f} in epoch 1, {last['loss']:.3f} in epoch 2")

# %%
Image("dinov2/features.png", width=640)

# %% [markdown]
# ## Does it help?
#
# Before and after look alike here: in a few steps the student moves little, and the teacher, whose features are drawn,
# moves less still. In any case a picture does not tell, nor does a loss. `weights probe --after` compares the features
# by the labels of some scans, and this command compares whole procedures on patients that no training saw:
#
# ```bash
# monai-essa adapt scans --labels labels --objective dinov2 --pretrained vit.pt --hours 8 --out study
# ```
#
# See [1_quick_start.ipynb](1_quick_start.ipynb) for what it writes.
