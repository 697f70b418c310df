# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

# %% [markdown]
# # Self-supervised adaptation of a SwinUNETR to your own scans
#
# A folder of scans without labels, and a pretrained SwinUNETR: this page goes the whole way from the folder to an
# adapted encoder in which a few tensors learned, with the bundle `essa_ssa` and no training loop of your own. It
# makes a datalist, checks the scans, writes one file for the site, runs, is killed, goes on, and hands the result to
# segmentation. It takes about a minute on two CPU cores.
#
# **Data.** Without further ado the *demo cohort*: deformed copies of the MNI152 brain, imaged by two made-up
# scanners. No volume is a patient. MNI152 (ICBM 2009a): Copyright (C) 1993-2004 Louis Collins, McConnell Brain
# Imaging Centre, Montreal Neurological Institute, McGill University; free to use, copy, modify and distribute with
# that notice. To run on your own MR scans, set the environment variable `DATA` to their folder: NIfTI, NRRD, MetaImage
# or DICOM series, in sub-folders or not; labels, if any, in a sub-folder `labels`.
#
# **Install.** In a clone of the repository: `pip install ".[tutorials]"`. Research software, not a medical device.

# %%
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch
import yaml
from IPython.display import Image
from monai.bundle import run
from monai.networks.nets import SwinUNETR

from monai_essa.cli import main
from monai_essa.demo.cohort import CohortSize, make_cohort
from monai_essa.report.charts import figure_png, loss_curves
from monai_essa.report.loss_log import read_loss_log

logging.disable(logging.WARNING)  # what the libraries say of themselves would fill this page
os.chdir(tempfile.mkdtemp(prefix="essa_"))  # all paths below are relative to this new folder

# %% [markdown]
# ## From a folder to a datalist
#
# `scans` is your folder. In the demo cohort it holds 14 scans of scanner B, four of them with a label. A second folder
# has scans of scanner A, to make the pretrained network from.

# %%
if "DATA" in os.environ:
    Path("scans").symlink_to(Path(os.environ["DATA"]).resolve(), target_is_directory=True)
    Path("other_scans").symlink_to("scans", target_is_directory=True)  # a rehearsal: see below
else:
    make_cohort("scans", CohortSize(source=0, unlabeled=10, training=3, validation=1, test=0))
    make_cohort("other_scans", CohortSize(source=12, unlabeled=0, training=0, validation=0, test=0))

# %% [markdown]
# Commands are called in this process here, by `monai_essa(...)`; in a shell it is
#
# ```bash
# monai-essa data datalist scans --out datalist.json --fractions training=3 validation=1
# monai-essa data check datalist.json
# ```
#
# The first finds the volumes, pairs them with labels where there are any, keeps a patient's scans together, and says
# what it left out. Scans without a label go to the section `unlabeled`. The second reads every file once.


# %%
def monai_essa(line: str) -> None:
    if main(line.split()) != 0:
        raise RuntimeError(f"monai-essa {line}: see the line above")


monai_essa("data datalist scans --out datalist.json --fractions training=3 validation=1")
monai_essa("data check datalist.json")

# %% [markdown]
# Each error would name the file and say what to do. The summary gives what the next step asks for: the spacing.
#
# ## One file for the site
#
# `bundles copy` makes a bundle of your own whose network is the SwinUNETR:
# `monai-essa bundles copy essa_ssa . --network swin_unetr`. `site.yaml` holds the rest, and any value of the bundle's
# `train.yaml` may stand in it. Small here, so that two CPU cores suffice: `feature_size` 12 (48 in public weights), and
# windows of 4 voxels, which divide the 32 tokens of a side (7 in public weights, seven times slower at this size).
# For CT add `essa_ssa/configs/intensity_ct.yaml` to `config_file`.

# %%
monai_essa("bundles copy essa_ssa . --network swin_unetr")

shared = {
    "spacing": [3.75, 3.75, 3.75] if "DATA" not in os.environ else [1.0, 1.0, 1.0],  # mm
    "img_size": [64, 64, 64],  # voxels of a crop; steps of 32 for a SwinUNETR
    "feature_size": 12,
    "network_def#window_size": 4,  # a key inside network_def
    "batch_size": 1,
    "val_interval": 2,
}
site = {
    "config_file": ["essa_ssa/configs/train.yaml"],
    "datalist": "datalist.json",
    "pretrained": "runs/pretrain/model.pt",  # the weights: yours, or those of the next cell
    "pretext_head": "runs/pretrain/pretext_head.safetensors",  # leave out with weights from elsewhere
    **shared,
    "samples_per_epoch": 10,
    "max_epochs": 8,
    "lr": 2.0e-3,
    "output_dir": "runs/ssa",
}
Path("site.yaml").write_text(yaml.safe_dump(site, sort_keys=False))
print(Path("site.yaml").read_text())

# %% [markdown]
# ## The pretrained network
#
# You would have one. A method that trains few tensors needs a base worth keeping, and a run without `pretrained`
# stops with an error that says so. Here the encoder first learns on scanner A with `method_full.yaml`, every parameter,
# for half a minute, just to have such a file. (With `DATA` it learns on the same scans: a rehearsal only.)

# %%
with redirect_stdout(None):
    monai_essa("data datalist other_scans --out other_datalist.json")
pretraining = shared | {"datalist": "other_datalist.json", "samples_per_epoch": 10, "max_epochs": 8, "lr": 2.0e-3}
configs = ["essa_ssa/configs/train.yaml", "essa_ssa/configs/method_full.yaml"]
run(config_file=configs, logging_file=False, output_dir="runs/pretrain", **pretraining)
print(*sorted(path.name for path in Path("runs/pretrain").iterdir()))

# %% [markdown]
# ## Run, get killed, go on
#
# A rehearsal that checks data, weights, memory and disk, and writes nothing: `monai-essa run --dry-run --args_file
# site.yaml`. Then the run, as a process of its own. After two epochs it gets what a crash or a scheduler would give it.

# %%
command = [sys.executable, "-m", "monai.bundle", "run", "--args_file", "site.yaml"]
process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
log = Path("runs/ssa/losses.jsonl")
while process.poll() is None and not (log.exists() and len(log.read_text().splitlines()) >= 2):
    time.sleep(0.1)
process.kill()
process.wait()
print("killed; the encoder is not there yet:", not Path("runs/ssa/model.pt").exists())

# %% [markdown]
# The same command goes on from the last checkpoint. On a CPU it ends bit-identical to a run that nobody killed: masks,
# crops and order are functions of the seed and the step, not of what ran before. (In this process, as
# `python -m monai.bundle run --args_file site.yaml` does it.)

# %%
run(args_file="site.yaml", logging_file=False)
rows = [json.loads(line) for line in log.read_text().splitlines()]
print("epochs in the log:", [row["epoch"] for row in rows], "steps:", rows[-1]["iteration"])

# %% [markdown]
# ## What the run folder holds

# %%
what = {
    "adapter.safetensors": "every tensor that may differ from the base, and sha256 of the others",
    "model.pt": "the merged encoder, plain MONAI keys",
    "pretext_head.safetensors": "the head of the pretext task, for a next run",
    "losses.jsonl": "losses of each epoch; tensorboard/ has them too",
    "reconstruction.png": "a held-out scan, masked and filled in",
    "summary.txt": "what learned",
    "run.json": "seed, versions, command, digests; no file name, no patient",
    "cost.json": "parameters, bytes and operations of a step",
}
for name, meaning in what.items():
    assert Path("runs/ssa", name).is_file()
    print(f"{name:26s}{meaning}")
sizes = [Path("runs/ssa", name).stat().st_size / 1e6 for name in ("adapter.safetensors", "model.pt")]
print("adapter {:.2f} MB, model.pt {:.2f} MB".format(*sizes), end="\n\n")
print(Path("runs/ssa/summary.txt").read_text())

# %%
logs = {"pretraining, all parameters": "runs/pretrain", "SSA on the site's scans, APLA": "runs/ssa"}
logs = {name: read_loss_log(Path(folder, "losses.jsonl")) for name, folder in logs.items()}
Image(figure_png(loss_curves(logs, "validation.loss", "SimMIM: loss on held-out scans, under fixed masks")))

# %% [markdown]
# The first point of a curve is after two epochs, not at the start; each curve is of the scans that its run held out
# (every tenth), so compare within a curve.
#
# A held-out scan of the site, 60 % of its blocks blanked, and what the adapted network fills in. The air around the
# head is noise because nothing asked for it: blocks count by their share of foreground (`weight_foreground`).

# %%
Image("runs/ssa/reconstruction.png")

# %% [markdown]
# Blurred, as masked image modelling is after a minute of training; what counts is what the encoder learned on the way.
#
# ## The result is plain MONAI
#
# `model.pt` loads strictly into the Swin transformer of a stock SwinUNETR; monai_essa is not needed from here on.

# %%
network = SwinUNETR(1, 3, feature_size=12, window_size=4)
print(network.swinViT.load_state_dict(torch.load("runs/ssa/model.pt", weights_only=True), strict=True))

# %% [markdown]
# ## On to segmentation
#
# The next stage is the bundle `essa_segmentation`, given the same base and the new adapter, which trains on, and the
# decoder with it. `--dry-run` builds it all and takes two steps; nothing is written. (It also estimates time, memory
# and disk; these lines are left out here.) With `DATA` put the names of your labels in and run it yourself.

# %%
monai_essa("bundles copy essa_segmentation . --network swin_unetr")
segmentation = {
    "config_file": ["essa_segmentation/configs/train.yaml"],
    "datalist": "datalist.json",
    "pretrained": "runs/pretrain/model.pt",
    "adapter": "runs/ssa/adapter.safetensors",
    "labels": {"background": 0, "gray matter": 1, "white matter": 2},
    **{key: shared[key] for key in ("spacing", "img_size", "feature_size", "network_def#window_size", "batch_size")},
    "output_dir": "runs/segmentation",
}
Path("segmentation.yaml").write_text(yaml.safe_dump(segmentation, sort_keys=False))
if "DATA" not in os.environ:
    with redirect_stdout(StringIO()) as said:
        monai_essa("run --dry-run --args_file segmentation.yaml")
    changing = ("time:", "estimate:", "memory:", "disk:")
    print(*(line for line in said.getvalue().splitlines() if not line.startswith(changing)), sep="\n")

# %% [markdown]
# `python -m monai.bundle run --args_file segmentation.yaml` trains it; `evaluate.yaml` scores it, and `inference.yaml`
# predicts ([3_tpp_few_labels.ipynb](3_tpp_few_labels.ipynb) does all three).
#
# ## With your own numbers
#
# - Public weights of a SwinUNETR-48: leave `feature_size` and `network_def#window_size` out, `img_size` 96, and
#   `pretrained: FILE`. What was loaded, renamed or left is printed; a file that does not fit is refused.
# - A GPU: nothing to set; `lean: small` if it does not fit, and `monai-essa plan scans --memory 12GB --hours 8` to
#   choose spacing, crop, batch and epochs ([5_what_it_costs.ipynb](5_what_it_costs.ipynb)).
# - Other methods: add `essa_ssa/configs/method_lora.yaml` to `config_file`. The decoder of the SwinUNETR too: add
#   `objective_simmim_decoder.yaml`.
# - Whether the adaptation helps your task is a question for your scans and labels. The control is one line: segment
#   with `start: encoder` in place of `adapter`. One seed, a small network, template-derived scans: this page shows
#   that every step runs.
