# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

# %% [markdown]
# # Quick start: from scans to a verdict with one command
#
# A site has scans, a few labels and the weights of a network that was pretrained elsewhere. Does it help to adapt the
# network to the unlabelled scans, and which network should the site use? `monai-essa adapt` trains the candidates and
# their controls, compares them patient by patient, and hands over a finished bundle. This page runs it, kills it half
# way, goes on, reads the verdict, and uses what was exported. It takes about 90 seconds on two CPU cores.
#
# **Numbers this small mean nothing.** The trainings here have six steps. They show that every part runs; a real study
# takes hours.
#
# **Data.** By default this page uses the *demo cohort*: deformed copies of the MNI152 brain, imaged by two simulated
# scanners. No volume shows a patient. MNI152 (ICBM 2009a): Copyright (C) 1993-2004 Louis Collins, McConnell Brain
# Imaging Centre, Montreal Neurological Institute, McGill University; free to use, copy, modify and distribute with
# that notice. To run on your own MR scans with label maps, set the environment variable `DATA` to their folder.
#
# **Install.** In a clone of the repository: `pip install ".[tutorials]"`. This is research software,
# not a medical device.

# %% [markdown]
# ## What a site has
#
# The folder `site` has scans of scanner B: eight without a label, four labelled ones to train on, and eight labelled
# ones to test on. You would download pretrained weights; here the bundle `essa_ssa` trains a small ViT for some
# seconds on scans of scanner A.

# %%
import logging
import os
import tempfile
from pathlib import Path

from monai.bundle import run

from monai_essa.bundling.folder import bundle_folder
from monai_essa.demo.cohort import CohortSize, make_cohort

logging.disable(logging.WARNING)  # what the libraries say of themselves would fill this page
os.chdir(tempfile.mkdtemp(prefix="essa_"))  # all paths below are relative to this new folder
make_cohort("elsewhere", CohortSize(source=8, unlabeled=0, training=0, validation=0, test=0))
if "DATA" in os.environ:
    Path("site").symlink_to(Path(os.environ["DATA"]).resolve(), target_is_directory=True)
else:
    make_cohort("site", CohortSize(source=0, unlabeled=8, training=4, validation=0, test=8))

run(
    config_file=[str(bundle_folder("essa_ssa") / "configs" / name) for name in ("train.yaml", "method_full.yaml")],
    logging_file=False,
    datalist="elsewhere/datalist.json",
    section="source#unlabeled",
    spacing=[3.75] * 3,
    img_size=[32] * 3,
    hidden_size=128,
    mlp_dim=256,
    num_heads=2,
    batch_size=4,
    samples_per_epoch=80,
    max_epochs=1,
    val_interval=1,
    output_dir="pretrained",
)
print(f"pretrained/model.pt: {Path('pretrained/model.pt').stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# ## The command
#
# ```bash
# monai-essa adapt site --pretrained pretrained/model.pt --hours 0.02 --out study \
#     img_size=[32,32,32] batch_size=2 max_epochs=2 samples_per_epoch=6 feature_size=8
# ```
#
# Without the values of the second line, which make this page short, the command chooses them for your scans, the
# computer and the hours. Here `--hours` decides how many of the controls and repeats there is time for. If the command
# says that a slow computer needs more hours, set the environment variable `HOURS`.
#
# The command is killed when three of its stages have ended, as by a power cut.

# %%
import subprocess
import sys
import time

command = [sys.executable, "-m", "monai_essa", "adapt", "site", "--pretrained", "pretrained/model.pt"]
command += ["--hours", os.environ.get("HOURS", "0.02"), "--out", "study"]
command += ["img_size=[32,32,32]", "batch_size=2", "max_epochs=2", "samples_per_epoch=6", "feature_size=8"]


def finished() -> dict[str, float]:
    """Return the stages that have ended, and when."""
    return {path.stem: path.stat().st_mtime for path in sorted(Path("study/stages").glob("*.done"))}


with Path("adapt.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
    while len(finished()) < 3 and process.poll() is None:
        time.sleep(0.1)
    process.kill()
before = finished()
if not before:
    raise SystemExit(Path("adapt.log").read_text())
print("killed after", *before, sep="\n  ")

# %% [markdown]
# The same command goes on where it was stopped. What had ended is not run again, and on a CPU the verdict is that of a
# study which nobody killed.

# %%
done = subprocess.run(command, capture_output=True, text=True)
if done.returncode:
    raise SystemExit(done.stdout + done.stderr)
after = finished()
print("unchanged:", all(after[name] == when for name, when in before.items()))
print("new:", "verdict.json, report.html, export" if Path("study/export").is_dir() else "no export")

# %% [markdown]
# ## The verdict
#
# `verdict.json` was begun before the first training: with the protocol, so that nobody can choose the question by
# the answer. Now it has the scores of all arms, the comparisons with their intervals, and what is exported.

# %%
import json
from textwrap import fill

verdict = json.loads(Path("study/verdict.json").read_text())
for sentence in verdict["protocol"]["sentences"]:
    print(sentence)
print("\nmean Dice, with its 95 % interval")
for arm in verdict["arms"]:
    print(f"  {arm['title']:<40} {arm['mean']:.3f}  ({arm['low']:.3f} to {arm['high']:.3f})")
print("\ncomparisons that were fixed beforehand")
for each in verdict["comparisons"]:
    if each["question"] != "description":
        print(f"  {each['a']} against {each['b']}: {each['word']}, at {each['decidable']:.3f} or more it is decided")
print("\n" + fill(verdict["sentence"].partition(" Left out:")[0], 110))

# %% [markdown]
# "Not decided" is an honest answer: it says how large a difference would have to be to be seen with so few
# patients. Which arms stand in the table depends on your computer, for `--hours` bounds the time. Arms that were
# left out for it:

# %%
print(*verdict["left_out"], sep=", ")

# %% [markdown]
# ## The report
#
# `study/report.html` is one file, opens offline and can be printed. It has the verdict first, then costs, cases,
# curves, what was loaded and the command that makes it again. Here are two of its figures: the scores of each arm by
# patient, and the median test case. A network that learned for six steps labels it badly.

# %%
import base64
import re

from IPython.display import Image

page = Path("study/report.html").read_text(encoding="utf-8")
figures = dict(re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)"', page))


def figure(words: str) -> Image:
    """Return the figure of the report whose description has these words."""
    return Image(base64.b64decode(next(data for alt, data in figures.items() if words in alt)), width=760)


figure("Scores of each arm by patient")

# %%
figure("median test case")

# %% [markdown]
# ## Use what was exported
#
# The arm that the verdict names is trained once more, on all labels. `study/export/adapted_segmentation` is an ordinary
# MONAI bundle with a stock network: using it needs no monai_essa. A fresh process shows that.

# %%
code = """
import sys, torch
from monai.bundle import ConfigParser

bundle = "study/export/adapted_segmentation"
config = ConfigParser()
config.read_config(f"{bundle}/configs/inference.yaml")
network = config.get_parsed_content("network_def")
print(network.load_state_dict(torch.load(f"{bundle}/models/model.pt", weights_only=True)))
print("class:", type(network).__module__, type(network).__name__)
print("monai_essa was imported:", "monai_essa" in sys.modules)
with torch.no_grad():
    print("output:", tuple(network.eval()(torch.zeros(1, 1, 32, 32, 32)).shape))
"""
print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip())

# %% [markdown]
# In the folder of the bundle, `python -m monai.bundle run --config_file configs/inference.yaml --dataset_dir DIR`
# segments a folder of scans, and MONAI Label serves it.
#
# The adapter holds the trained tensors alone. It fits the base that it was trained on, and merging the two gives the
# network of the bundle.

# %%
import torch
from monai.bundle import ConfigParser

from monai_essa import load_adapter, load_weights, merge

config = ConfigParser()
config.read_config("study/export/adapted_segmentation/configs/inference.yaml")
network = config.get_parsed_content("network_def")
load_weights(network, "pretrained/model.pt")
load_adapter(network, "study/export/adapter.safetensors")
plain = merge(network)

exported = torch.load("study/export/adapted_segmentation/models/model.pt", weights_only=True)
print("equal to the exported network:", all(torch.equal(plain.state_dict()[key], exported[key]) for key in exported))
for path in (Path("study/export/adapter.safetensors"), Path("study/export/adapted_segmentation/models/model.pt")):
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")

# %% [markdown]
# `study/export/hub` has the adapter in the form of the Hugging Face hub, and `study/export/README.md` is its model
# card.
#
# ## What next
#
# - On your own scans: `monai-essa adapt scans --labels labels --hours 8 --dry-run` prints what would run and for how
#   long; without `--dry-run` it runs. `docs/how-to/adapt.md` explains the arms and the protocol.
# - To start from a bundle of the model zoo, see [7_from_a_zoo_bundle.ipynb](7_from_a_zoo_bundle.ipynb); to run the
#   stages by yourself, [2_ssa_swin_unetr.ipynb](2_ssa_swin_unetr.ipynb) and
#   [3_tpp_few_labels.ipynb](3_tpp_few_labels.ipynb); to see what they cost,
#   [5_what_it_costs.ipynb](5_what_it_costs.ipynb).
# - Every stage is an ordinary bundle run: `python -m monai.bundle run --args_file study/stages/NAME.yaml`.
