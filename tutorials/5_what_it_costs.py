# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

# %% [markdown]
# # What it costs: meter, lean training, plan
#
# Will a training run fit my GPU? This page answers the question before the run: it measures a training step without a
# GPU and without doing the arithmetic, makes it cheaper without changing what is computed, and plans a run that fits
# the scans, the GPU and the hours. It takes under a minute on two CPU cores.
#
# **Data.** Only the last part uses scans: by default the *demo cohort*, deformed copies of the MNI152 brain, imaged
# by two simulated scanners. No volume shows a patient. MNI152 (ICBM 2009a): Copyright (C) 1993-2004 Louis Collins,
# McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill University; free to use, copy, modify and
# distribute with that notice. To plan for real scans, set the environment variable `DATA` to their folder, for
# example `Task04_Hippocampus` of the Medical Segmentation Decathlon (Simpson et al. 2019, CC BY-SA 4.0).
#
# **Install.** In a clone of the repository: `pip install ".[tutorials]"`. This is research software,
# not a medical device.

# %%
import copy
import os
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import torch
from IPython.display import Image
from monai.losses import DiceCELoss
from monai.networks.nets import UNETR

from monai_essa import adapt, lean
from monai_essa.cli import main as monai_essa_command
from monai_essa.cost import step_cost
from monai_essa.cost.table import CostWork, cost_rows
from monai_essa.demo.cohort import CohortSize, make_cohort
from monai_essa.engines import Supervised
from monai_essa.methods import APLA
from monai_essa.report.charts import cost_bars, figure_png
from monai_essa.report.tables import format_table

WORK = Path(tempfile.mkdtemp(prefix="essa_"))

# %% [markdown]
# ## A table for a network by name
#
# The table is for a ViT-B/16 on crops of 96 cubed, 16 in a batch, with masked image modelling. It shows the whole
# network as MONAI trains it, then methods with the two lean recipes. In a shell the same is
#
# ```bash
# monai-essa cost --network vit_b --size 96 --batch 16 --methods full,apla,lora
# ```

# %%
rows = cost_rows(CostWork("vit_b", size=96, batch=16), methods=["full", "apla", "lora"], recipes=["fast", "small"])
headers = ("method", "lean", "trainable", "peak, GiB", "of full", "GFLOP", "of full")
cells = [
    [
        row.method,
        row.recipe,
        f"{row.cost.trainable / 1e6:.2f} M",
        f"{row.cost.peak_bytes / 2**30:.2f}",
        f"{row.cost.peak_bytes / rows[0].cost.peak_bytes:.2f}",
        f"{row.cost.flops / 1e9:,.0f}",
        f"{row.cost.flops / rows[0].cost.flops:.2f}",
    ]
    for row in rows
]
print(format_table(headers, cells))

# %%
costs = {row.method if row is rows[0] else f"{row.method}, {row.recipe}": row.record for row in rows}
Image(figure_png(cost_bars(costs, "Peak memory of a training step: ViT-B, 96 cubed, batch 16")))

# %% [markdown]
# The table shows three things. With few trainable tensors the gradients and the state of the optimizer almost vanish.
# The rest is mostly activations; a method alone saves some of them, and `lean` saves most. `small` saves memory at
# the price of arithmetic, because it computes the blocks again in the backward pass.
#
# ## Your own network and loss
#
# `step_cost` accepts any objective: a module that returns a dictionary with `loss`. It computes and allocates
# nothing, so the step may need more memory than this computer has; inputs may be on the *meta* device. Here a UNETR-B
# learns to segment, with APLA in its encoder and every parameter of its decoder.

# %%
network = UNETR(1, 3, (96, 96, 96), qkv_bias=True)
adapt(network, APLA(), also_train=[r"(encoder|decoder)\d+\..*", r"out\..*"])
objective = Supervised(network, DiceCELoss(to_onehot_y=True, softmax=True))

peaks = {}
for recipe, options in {"stock": None, "fast": {}, "small": {"recompute": "block"}}.items():
    lean(objective, off=True) if options is None else lean(objective, **options)
    for batch in (1, 4):
        shape = (batch, 1, 96, 96, 96)
        cost = step_cost(objective, torch.empty(shape, device="meta"), torch.empty(shape, device="meta"))
        peaks[recipe, batch] = f"{cost.peak_bytes / 2**30:.2f}"
batches = sorted({batch for _, batch in peaks})
table = [[recipe, *(peaks[recipe, batch] for batch in batches)] for recipe in ("stock", "fast", "small")]
print(format_table(["peak, GiB", *(f"batch {batch}" for batch in batches)], table))

# %% [markdown]
# Here `lean` helps less, because the convolutions of the decoder are trained and must keep their inputs. A frozen
# decoder halves the peak (see the row in the README).
#
# ## Lean training has the same gradients
#
# Lean training computes the same function in another way, and the keys of the network stay. The next cell computes
# one step of a small UNETR as MONAI does and with lean training, in double precision so that rounding hides nothing:

# %%
torch.manual_seed(0)
small = UNETR(1, 3, (32, 32, 32), feature_size=4, hidden_size=48, mlp_dim=96, num_heads=4, qkv_bias=True).double()
adapt(small, APLA(columns=0.5), also_train=[r"(encoder|decoder)\d+\..*", r"out\..*"])
twin = lean(copy.deepcopy(small), recompute="block")
images = torch.rand(1, 1, 32, 32, 32, dtype=torch.float64)
labels = torch.randint(3, (1, 1, 32, 32, 32))
for network in (small, twin):
    Supervised(network, DiceCELoss(to_onehot_y=True, softmax=True))(images, labels)["loss"].backward()

pairs = [(p.grad, q.grad) for p, q in zip(small.parameters(), twin.parameters(), strict=True) if p.grad is not None]
print("tensors with a gradient:", len(pairs))
print("all equal to ten digits:", all(torch.allclose(p, q, rtol=1e-10, atol=1e-12) for p, q in pairs))
print("the same keys:", small.state_dict().keys() == twin.state_dict().keys())

# %% [markdown]
# ## A plan for a site
#
# `monai-essa plan` examines the scans and the GPU, asks the meter what fits, times five steps, and writes the config
# of a run with a reason on each line. Below are the lines that are the same on any computer; `max_epochs` depends on
# the speed of yours. (A ViT of width 384 keeps this page short; for a ViT-B leave out `--args` and pass
# `--pretrained vit_b.pt`.)

# %%
if "DATA" in os.environ:
    scans = Path(os.environ["DATA"])
else:
    scans = make_cohort(WORK / "scans", CohortSize(source=6, unlabeled=6, training=3, validation=1, test=2)).parent
plan = WORK / "my_site.yaml"
options = ["--memory", "12GB", "--hours", "2", "--stage", "ssa", "--out", str(plan)]
sizes = ["--args", "hidden_size=384", "mlp_dim=1536", "num_heads=6"]
with redirect_stdout(None):  # it prints the whole file, paths and times too
    monai_essa_command(["plan", str(scans), *options, *sizes])

for line in plan.read_text().splitlines():
    if line.startswith(("# peak", "section", "in_channels", "spacing", "img_size", "lean", "batch_size")):
        print(line)
    elif line.startswith("- "):  # a config file of the bundle
        print("- ..." + line[line.index("/essa_") :])

# %% [markdown]
# Next, `monai-essa run --dry-run --args_file my_site.yaml` builds everything and runs two batches, and
# `python -m monai.bundle run --args_file my_site.yaml` trains. Every run writes its costs to `cost.json`.
