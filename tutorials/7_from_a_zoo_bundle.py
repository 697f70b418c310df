# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

# %% [markdown]
# # From a bundle of the model zoo to a bundle for your site
#
# The networks of the MONAI model zoo are bundles: a folder with configs, metadata and weights. This page takes such a
# folder, looks at what it needs, adapts its network to scans without labels, trains with three labels, and exports
# a bundle again, which MONAI's own command verifies. It takes about a minute on two CPU cores.
#
# **Numbers this small mean nothing.** The networks are tiny and learn for seconds; the page shows that every part runs.
#
# **Data.** This page uses the *demo cohort*: deformed copies of the MNI152 brain, imaged by a simulated scanner.
# No volume shows a patient. MNI152 (ICBM 2009a): Copyright (C) 1993-2004 Louis Collins, McConnell Brain
# Imaging Centre, Montreal Neurological Institute, McGill University; free to use, copy, modify and distribute with
# that notice. With your own scans, `monai-essa adapt`, shown at the end, does all of this in one command.
#
# **Install.** In a clone of the repository: `pip install ".[tutorials]"`. This is research software,
# not a medical device.

# %% [markdown]
# ## A bundle in the style of the zoo
#
# You would download one with `python -m monai.bundle download`. Here a few lines of plain MONAI make one: a SegResNet
# that learns brain tissue from four labelled scans of another site.

# %%
import json
import logging
import os
import tempfile
from pathlib import Path

import torch
from monai.losses import DiceCELoss
from monai.networks.nets import SegResNet
from monai.transforms import Compose, LoadImaged, NormalizeIntensityd, Orientationd

from monai_essa.demo.cohort import CohortSize, make_cohort

logging.disable(logging.WARNING)  # what the libraries say of themselves would fill this page
os.chdir(tempfile.mkdtemp(prefix="essa_"))  # all paths below are relative to this new folder
LABELS = {"background": 0, "gray matter": 1, "white matter": 2}
make_cohort("elsewhere", CohortSize(source=0, unlabeled=0, training=4, validation=0, test=0), seed=1)
make_cohort("site", CohortSize(source=0, unlabeled=8, training=3, validation=1, test=4))

read = Compose(
    [
        LoadImaged(["image", "label"], ensure_channel_first=True),
        Orientationd(["image", "label"], "RAS", labels=None),
        NormalizeIntensityd("image", nonzero=True),
    ]
)
items = json.loads(Path("elsewhere/datalist.json").read_text())["target"]["training"]
cases = [read({key: f"elsewhere/{path}" for key, path in item.items()}) for item in items]
images, labels = (torch.stack([case[key].as_tensor() for case in cases]) for key in ("image", "label"))

torch.manual_seed(0)
sizes = {"init_filters": 8, "blocks_down": [1, 2, 2, 4], "blocks_up": [1, 1, 1]}
network = SegResNet(in_channels=1, out_channels=3, **sizes)
optimizer, criterion = torch.optim.AdamW(network.parameters(), lr=3e-3), DiceCELoss(to_onehot_y=True, softmax=True)
for step in range(30):
    pair = [step % 4, (step + 1) % 4]
    loss = criterion(network(images[pair]), labels[pair])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

(zoo := Path("tissue_of_elsewhere")).joinpath("configs").mkdir(parents=True)
(zoo / "models").mkdir()
torch.save(network.state_dict(), zoo / "models" / "model.pt")
inference = {
    "network_def": {"_target_": "SegResNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3, **sizes},
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            {"_target_": "Spacingd", "keys": "image", "pixdim": [3.75, 3.75, 3.75]},
        ],
    },
}
channels = {str(number): name for name, number in LABELS.items()}
metadata = {"name": "Tissue of elsewhere", "version": "0.1.0"}
metadata["network_data_format"] = {"outputs": {"pred": {"channel_def": channels}}}
(zoo / "configs" / "inference.json").write_text(json.dumps(inference, indent=1))
(zoo / "configs" / "metadata.json").write_text(json.dumps(metadata, indent=1))
print(*sorted(path.as_posix() for path in zoo.rglob("*.*")), sep="\n")

# %% [markdown]
# ## What it needs
#
# The config of a bundle is a program to MONAI. monai_essa reads it as data: nothing in it is run. It takes the
# network, the spacing, the orientation and the names of the labels from it.

# %%
from monai_essa.weights import read_zoo_bundle

bundle = read_zoo_bundle(zoo)
print(bundle.title, bundle.card, bundle.labels, sep="\n")

# %% [markdown]
# `weights check` says which network the weights need, tries them on it, and writes an overlay for the bundles of
# monai_essa: `monai-essa weights check bundle:tissue_of_elsewhere --out base.yaml`.

# %%
from monai_essa.cli import main

assert main(["weights", "check", "bundle:tissue_of_elsewhere", "--out", "base.yaml"]) == 0

# %% [markdown]
# ## Adapt and train
#
# First SSA on the scans without labels: SimMIM, with LoRA in the convolutions, since a SegResNet has no attention.
# Then the three labels: the same tensors go on learning, and the decoder, which comes from the zoo too, with them.

# %%
from contextlib import redirect_stdout
from io import StringIO

from monai.bundle import run

from monai_essa.bundling.folder import bundle_folder


def configs(bundle: str, *names: str) -> list[str]:
    """Return configs of a bundle that ships with monai_essa, and the overlay that was just written."""
    folder = bundle_folder(bundle) / "configs"
    return [str(folder / name) for name in ("train.yaml", "network_segresnet.yaml", *names)] + ["base.yaml"]


site = {
    "datalist": "site/datalist.json",
    "pretrained": "bundle:tissue_of_elsewhere",
    "spacing": bundle.card["spacing"],
    "img_size": [48, 48, 48],
    "logging_file": False,
}
run(
    config_file=configs("essa_ssa", "method_lora_conv.yaml"),
    section="target#unlabeled",
    batch_size=4,
    samples_per_epoch=40,
    max_epochs=1,
    output_dir="ssa",
    **site,
)
task = site | {"labels": LABELS, "adapter": "ssa/adapter.safetensors", "output_dir": "tissue"}
run(
    config_file=configs("essa_segmentation", "method_lora_conv.yaml"),
    section="target#training",
    validation_section="target#validation",
    samples_per_epoch=24,
    max_epochs=2,
    **task,
)
print(Path("tissue/summary.txt").read_text().strip())

# %% [markdown]
# On the four test scans, case by case:

# %%
import csv

evaluate = configs("essa_segmentation", "method_lora_conv.yaml")
evaluate.append(str(bundle_folder("essa_segmentation") / "configs" / "evaluate.yaml"))
with redirect_stdout(StringIO()):
    run(config_file=evaluate, **task | {"validation_section": "target#test"})
with open("tissue/test/cases.csv", newline="") as file:
    for number, row in enumerate(csv.DictReader(file)):
        dice, distance = float(row["dice"]), float(row["hd95_mm"])
        print(f"case {number // 2 + 1}, {row['class']}: Dice {dice:.3f}, HD95 {distance:.1f} mm")

# %% [markdown]
# ## Export and verify
#
# `bundles copy --run` makes a bundle of the finished run: with the merged network, which is a stock SegResNet, its
# preprocessing, metadata and licence. MONAI's `verify_net_in_out` feeds the network, and compares what comes out with
# the metadata.

# %%
import subprocess
import sys

assert main(["bundles", "copy", "essa_segmentation", "--name", "tissue_here", "--run", "tissue"]) == 0
verify = [sys.executable, "-m", "monai.bundle", "verify_net_in_out", "network_def"]
verify += ["--meta_file", "configs/metadata.json", "--config_file", "configs/inference.yaml"]
done = subprocess.run(verify, cwd="tissue_here", capture_output=True, text=True)
print((done.stdout + done.stderr).splitlines()[-1].partition("INFO - ")[2] if done.returncode == 0 else done.stderr)
print("verified:", done.returncode == 0)

# %% [markdown]
# The new bundle is one that the page could begin with, and one that needs no monai_essa: `inference.yaml` names MONAI
# alone. The figure shows a test case.

# %%
from IPython.display import Image

from monai_essa.demo.outcome import read_case
from monai_essa.report.charts import figure_png
from monai_essa.report.panels import segmentations

item = json.loads(Path("site/datalist.json").read_text())["target"]["test"][0]
item = {key: f"site/{path}" for key, path in item.items()}
run(
    config_file="tissue_here/configs/inference.yaml",
    bundle_root="tissue_here",
    logging_file=False,
    data=[{"image": item["image"]}],
    output_dir="masks",
)
(mask,) = (path for path in Path("masks").rglob("*") if path.is_file())
Image(figure_png(segmentations([read_case("test case", item, mask)], list(LABELS)[1:])), width=640)

# %% [markdown]
# ## In one command, with a verdict
#
# The same start, with the controls that tell whether the adaptation helped:
#
# ```bash
# monai-essa adapt scans --labels labels --pretrained bundle:tissue_of_elsewhere --hours 8 --out study
# ```
#
# See [1_quick_start.ipynb](1_quick_start.ipynb) for what it writes.
