# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

# %% [markdown]
# # MONAI Label: annotate, train an adapter, repeat
#
# A server proposes segmentations, a reader corrects and submits them, and the server learns from the submitted
# labels. With monai_essa it trains **an adapter**, a small file for each site or scanner, and never writes to the
# model itself. This page starts such a server, acts as the reader through MONAI Label's own client, and stops the
# server: propose, submit three labels, train, propose again, choose adapters, undo. It takes about a minute and a
# half on two CPU cores; most of that is the start of Python, because each training is a process of its own.
#
# **Data.** By default this page uses the *demo cohort*: deformed copies of the MNI152 brain, imaged by a simulated
# scanner, with gray and white matter as labels. No volume shows a patient. MNI152 (ICBM 2009a):
# Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill
# University; free to use, copy, modify and distribute with that notice. To run on real scans, set the environment
# variable `DATA` to a folder in the style of the Medical Segmentation Decathlon, such as `Task04_Hippocampus`
# (Simpson et al. 2019, CC BY-SA 4.0).
#
# **Install.** MONAI Label needs an environment of its own, with Python 3.10 to 3.12. In a clone of the repository:
# `pip install --constraint constraints-label.txt ".[label,tutorials]"`. This is research software,
# not a medical device.

# %%
import atexit
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from IPython.display import Image
from monai.bundle import run
from monailabel.client.client import MONAILabelClient

from monai_essa.bundling.folder import bundle_folder
from monai_essa.cli import main
from monai_essa.data import load_datalist
from monai_essa.demo.cohort import CohortSize
from monai_essa.demo.data import cohort_data, own_data
from monai_essa.demo.outcome import read_case
from monai_essa.report.charts import dice_by_case, figure_png
from monai_essa.report.panels import SegmentationCase, segmentations

logging.disable(logging.WARNING)  # what the libraries say of themselves would fill this page
WORK = Path(tempfile.mkdtemp(prefix="essa_"))
os.chdir(WORK)
SHAPE = (48, 64, 48)
size = CohortSize(source=0, unlabeled=0, training=3, validation=2, test=4)
if "DATA" in os.environ:
    data = own_data(Path(os.environ["DATA"]), WORK / "datalist.json", size, SHAPE, seed=0)
else:
    data = cohort_data(WORK / "cohort", size, seed=0)

# %% [markdown]
# ## A bundle with weights
#
# You would have a bundle of a public model or of your own training. Here `essa_segmentation` trains a small UNETR
# briefly on two volumes, a weak start that leaves something to correct. `bundles copy --run` turns the run into a
# finished bundle with its network, its values and its weights.

# %%
values = {
    "spacing": list(data.card.spacing),
    "img_size": list(SHAPE),
    "labels": dict(data.card.labels),
    "hidden_size": 96,
    "mlp_dim": 384,
    "num_heads": 6,
    "feature_size": 4,
}
training = {
    "datalist": str(data.datalist),
    "section": data.sections["validation"],
    "validation_section": data.sections["validation"],
    "batch_size": 1,
    "samples_per_epoch": 8,
    "max_epochs": 2,
    "val_interval": 2,
}
configs = [str(bundle_folder("essa_segmentation") / "configs" / file) for file in ("train.yaml", "start_random.yaml")]
run(config_file=configs, logging_file=False, output_dir="runs/start", **values, **training)

names = Path(os.environ["DATA"]) / "dataset.json" if "DATA" in os.environ else data.datalist  # holds label names
sizes = [f"{name}={value}" for name, value in values.items() if name != "labels"]
copy = ["bundles", "copy", "essa_segmentation", "--name", "tissue", "--run", "runs/start", "--labels", str(names)]
if main([*copy, "--args", *sizes]) != 0:
    raise RuntimeError("see the line above")

# %% [markdown]
# ## The server
#
# `label init` writes an app folder around the bundle, and `label start` serves it to this computer only. In a shell:
#
# ```bash
# monai-essa label init app --bundle tissue
# monai-essa label start app --studies studies
# ```
#
# `studies` is a folder of NIfTI files, here seven volumes without labels. The reader knows the labels of three
# volumes; the other four are used to measure the result.

# %%
if main("label init app --bundle tissue".split()) != 0:
    raise RuntimeError("see the line above")

cases = {name: load_datalist(data.datalist, data.sections[name]) for name in ("training", "test")}


def image_id(item: dict) -> str:
    return Path(item["image"]).name.removesuffix(".gz").removesuffix(".nii")


Path("studies").mkdir()
for item in cases["training"] + cases["test"]:
    shutil.copy(item["image"], "studies")

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
command = [sys.executable, "-c", "import sys; from monai_essa.cli import main; main(sys.argv[1:])"]
command += ["label", "start", "app", "--studies", "studies", "--port", str(port)]
quiet = {"MONAI_LABEL_AUTO_UPDATE_SCORING": "false"}  # no scores for active learning in the background here
with open("server.log", "wb") as log:
    server = subprocess.Popen(command, env=os.environ | quiet, stdout=log, stderr=log)
atexit.register(server.terminate)  # should a cell fail
while server.poll() is None:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/info/").close()
        break
    except OSError:
        time.sleep(0.5)
else:
    raise RuntimeError(Path("server.log").read_text()[-2000:])

client = MONAILabelClient(f"http://127.0.0.1:{port}", tmpdir=str(WORK))
info = client.info()
print("models:", *info["models"], "- labels:", *info["models"]["tissue"]["labels"])
print("next sample:", *info["strategies"])
print("volumes:", info["datastore"]["total"], "with a label:", info["datastore"]["completed"])

# %% [markdown]
# ## Propose
#
# In a viewer this is the button *Run*. The label map comes back in the geometry of the image, and the answer names
# the adapter that made it: `base`, because there is no adapter yet.


# %%
def propose(item: dict, **options: object) -> SegmentationCase:
    """Infer on the server; the case with its true label beside."""
    file, answer = client.infer("tissue", image_id(item), options)
    return read_case(f"{answer['adapter']}, version {answer['adapter_version']}", item, Path(file))


def dice(proposals: list[SegmentationCase]) -> dict[str, list[float]]:
    """Dice of each case by class."""
    found = {}
    for name, number in list(data.card.labels.items())[1:]:
        pairs = [(case.prediction == number, case.label == number) for case in proposals]
        found[name] = [2 * (one & other).sum() / (one.sum() + other.sum()) for one, other in pairs]
    return found


before = [propose(item) for item in cases["test"]]
print(before[0].title)

# %% [markdown]
# ## Submit three labels, train
#
# In a viewer these are the buttons *Submit Label* and *Train*. The request names the site. The training starts from
# the model, trains the bundle's method (APLA), decoder and head, and keeps the epoch that is best on one of the three
# volumes.

# %%
for item in cases["training"]:
    client.save_label(image_id(item), item["label"])
print("with a label:", client.info()["datastore"]["completed"])


def train(**options: object) -> str:
    """Train to the end."""
    client.train_start("tissue", options)
    while (status := client.train_status())["status"] in ("SUBMITTED", "RUNNING"):
        time.sleep(0.5)
    return status["status"]


weights = Path("app/model/tissue/models/model.pt").read_bytes()
print(train(adapter="scanner_b", max_epochs=6, samples_per_epoch=8, val_split=0.34))
print(
    "adapters:",
    *sorted(path.relative_to("app/model/tissue").as_posix() for path in Path("app").rglob("00*.safetensors")),
)
print("model.pt unchanged:", Path("app/model/tissue/models/model.pt").read_bytes() == weights)

# %% [markdown]
# ## Propose again
#
# The proposals are for the four volumes without labels. A request that names no adapter gets the one that was trained
# last.

# %%
after = [propose(item) for item in cases["test"]]
print(after[0].title)
Image(figure_png(dice_by_case({"the bundle": dice(before), "with the adapter": dice(after)})))

# %%
Image(figure_png(segmentations([before[0], after[0]], list(data.card.labels)[1:])), width=640)

# %% [markdown]
# With three labels and a short training this shows that the loop works, not how good a method is. (This is one run
# with one seed.)
#
# ## Choose, undo
#
# The server keeps the adapters of several sites side by side; a request names one of them, or `base`. Swapping loads
# a few tensors, not the model. You can undo a training; no file is deleted.

# %%
base = propose(cases["test"][0], adapter="base")
print(base.title, "- as before the training:", (base.prediction == before[0].prediction).all())
again = propose(cases["test"][0], adapter="scanner_b")
print(again.title, "- as after it:", (again.prediction == after[0].prediction).all())

print(train(adapter="scanner_b", undo=True))
offered = client.info()["models"]["tissue"]["config"]["adapter"]
print("scanner_b still offered:", "scanner_b" in offered, "- the base:", "base" in offered)

# %% [markdown]
# To use the adapter on another computer, copy its file: `monai-essa adapter` shows it and merges it into a plain
# `model.pt`.
#
# ## Stop

# %%
server.terminate()
server.wait()
print("stopped")

# %% [markdown]
# ## What next
#
# - [docs/label.md](../docs/label.md) covers 3D Slicer, active learning by uncertainty, all options, and what MONAI
#   Label does not protect. Keep the server at 127.0.0.1, or put a proxy with authentication in front of it.
# - If you have many unlabelled studies, adapt the encoder to them first: `client.train_start("tissue_ssa", ...)`
#   trains on all volumes of the folder without labels, and the next training starts from the result.
