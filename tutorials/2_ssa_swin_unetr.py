# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

# %% [markdown]
# # Self-supervised adaptation of a SwinUNETR to your own scans
#
# This page starts with a folder of scans without labels and a pretrained SwinUNETR, and ends with an adapted encoder
# in which a few tensors were trained. It uses the bundle `essa_ssa`, without a training loop of your own. It makes a
# datalist, checks the scans, writes one file for the site, starts the run, kills it, resumes it, and hands the result
# to segmentation. It takes about a minute on two CPU cores.
#
# **Data.** By default this page uses the *demo cohort*: deformed copies of the MNI152 brain, imaged by two simulated
# scanners. No volume shows a patient. MNI152 (ICBM 2009a): Copyright (C) 1993-2004 Louis Collins, McConnell Brain
# Imaging Centre, Montreal Neurological Institute, McGill University; free to use, copy, modify and distribute with
# that notice. To run on your own MR scans, set the environment variable `DATA` to their folder. It may contain NIfTI,
# NRRD, MetaImage or DICOM series, also in sub-folders; put labels, if you have any, into a sub-folder `labels`.
#
# **Install.** In a clone of the repository: `pip install ".[tutorials]"`. This is research software,
# not a medical device.

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
from monai_essa.report.charts import figure_png, loss_curves, read_loss_log

logging.disable(logging.WARNING)  # what the libraries say of themselves would fill this page
os.chdir(tempfile.mkdtemp(prefix="essa_"))  # all paths below are relative to this new folder

# %% [markdown]
# ## From a folder to a datalist
#
# `scans` is your folder. In the demo cohort it holds 14 scans of scanner B, four of them with a label. A second
# folder has scans of scanner A, from which the pretrained network is made.

# %%
if "DATA" in os.environ:
    Path("scans").symlink_to(Path(os.environ["DATA"]).resolve(), target_is_directory=True)
    Path("other_scans").symlink_to("scans", target_is_directory=True)  # a rehearsal: see below
else:
    make_cohort("scans", CohortSize(source=0, unlabeled=10, training=3, validation=1, test=0))
    make_cohort("other_scans", CohortSize(source=12, unlabeled=0, training=0, validation=0, test=0))

# %% [markdown]
# This page calls the commands in its own process, with `monai_essa(...)`. In a shell they are
#
# ```bash
# monai-essa data datalist scans --out datalist.json --fractions training=3 validation=1
# monai-essa data check datalist.json
# ```
#
# The first command finds the volumes, pairs them with their labels, keeps the scans of a patient together, and says
# what it left out. Scans without a label go to the section `unlabeled`. The second command reads every file once.


# %%
def monai_essa(line: str) -> None:
    if main(line.split()) != 0:
        raise RuntimeError(f"monai-essa {line}: see the line above")


monai_essa("data datalist scans --out datalist.json --fractions training=3 validation=1")
monai_essa("data check datalist.json")

# %% [markdown]
# Each error would name the file and say what to do. The summary includes the spacing, which the next step needs.
#
# ## One file for the site
#
# `bundles copy` makes a bundle of your own whose network is the SwinUNETR:
# `monai-essa bundles copy essa_ssa . --network swin_unetr`. `site.yaml` holds the rest, and you can set any value of
# the bundle's `train.yaml` in it. The network is small here, so that two CPU cores suffice: `feature_size` is 12 (48
# in public weights), and windows have 4 voxels, which divide the 32 tokens of a side (7 in public weights, which is
# seven times slower at this size). For CT add `essa_ssa/configs/intensity_ct.yaml` to `config_file`.

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
# You would use a public one. A method that trains few tensors needs a base worth keeping, so a run without
# `pretrained` stops with an error that says so. To have such a file, every parameter of the encoder is first trained
# on scanner A for half a minute, with `method_full.yaml`. (With `DATA` it is trained on the same scans, which is only
# a rehearsal.)

# %%
with redirect_stdout(None):
    monai_essa("data datalist other_scans --out other_datalist.json")
pretraining = shared | {"datalist": "other_datalist.json", "samples_per_epoch": 10, "max_epochs": 8, "lr": 2.0e-3}
configs = ["essa_ssa/configs/train.yaml", "essa_ssa/configs/method_full.yaml"]
run(config_file=configs, logging_file=False, output_dir="runs/pretrain", **pretraining)
print(*sorted(path.name for path in Path("runs/pretrain").iterdir()))

# %% [markdown]
# ## Run, get killed, resume
#
# `monai-essa run --dry-run --args_file site.yaml` rehearses the run: it checks data, weights, memory and disk, and
# writes nothing. Then the run starts as a process of its own. After two epochs it is killed, as by a crash or a
# scheduler.

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
# The same command resumes from the last checkpoint. On a CPU the result is bit-identical to that of an unbroken run:
# masks, crops and order are functions of the seed and the step, not of what ran before. (Here it runs in this
# process, as `python -m monai.bundle run --args_file site.yaml` would run it.)

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
# The first point of a curve is after two epochs, not at the start. Each curve shows the scans that its run held out
# (every tenth), so compare only points of the same curve.
#
# The figure shows a held-out scan of the site, the same scan with 60 % of its blocks blanked, and what the adapted
# network fills in. The air around the head is noise because the loss ignores it: blocks count by their share of
# foreground (`weight_foreground`).

# %%
Image("runs/ssa/reconstruction.png")

# %% [markdown]
# The result is blurred, as is usual for masked image modelling after a minute of training. What counts is what the
# encoder learned.
#
# ## The result is plain MONAI
#
# `model.pt` loads strictly into the Swin transformer of a stock SwinUNETR. From here on you do not need monai_essa.

# %%
network = SwinUNETR(1, 3, feature_size=12, window_size=4)
print(network.swinViT.load_state_dict(torch.load("runs/ssa/model.pt", weights_only=True), strict=True))

# %% [markdown]
# ## On to segmentation
#
# The next stage is the bundle `essa_segmentation`. It gets the same base and the new adapter, and trains the adapter
# further, together with the decoder. `--dry-run` builds everything, takes two steps and writes nothing. (It also
# estimates time, memory and disk; these lines are left out here.) With `DATA`, insert the names of your labels and
# run it yourself.

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
# `python -m monai.bundle run --args_file segmentation.yaml` trains the network, `evaluate.yaml` scores it, and
# `inference.yaml` predicts; [3_tpp_few_labels.ipynb](3_tpp_few_labels.ipynb) does all three.
#
# ## With your own numbers
#
# - For public weights of a SwinUNETR-48 leave out `feature_size` and `network_def#window_size`, and set `img_size` to
#   96 and `pretrained: FILE`. The run prints what was loaded, renamed or left out, and refuses a file that does not
#   fit.
# - On a GPU you need not set anything. If the run does not fit, set `lean: small`;
#   `monai-essa plan scans --memory 12GB --hours 8` chooses spacing, crop, batch and epochs
#   ([5_what_it_costs.ipynb](5_what_it_costs.ipynb)).
# - For another method add, for example, `essa_ssa/configs/method_lora.yaml` to `config_file`. To train the decoder of
#   the SwinUNETR too, add `objective_simmim_decoder.yaml`.
# - Only your own scans and labels can show whether the adaptation helps your task. The control is one line: segment
#   with `start: encoder` instead of `adapter`. This page used one seed, a small network and template-derived scans:
#   it shows that every step runs.
