# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

# %% [markdown]
# # TPP, then segmentation with three labels
#
# LoRA adds small matrices to a frozen network. *Target parameter pre-training* (TPP) first trains those matrices on
# unlabelled scans; then they learn to segment from a few labels. The control is the same without TPP. The shipped
# bundles do everything, without a training loop of your own. This page takes about a minute on two CPU cores.
#
# **Data.** By default this page uses the *demo cohort*: deformed copies of the MNI152 brain, imaged by two simulated
# scanners, with gray and white matter as labels. No volume shows a patient. MNI152 (ICBM 2009a):
# Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill
# University; free to use, copy, modify and distribute with that notice. To run on real scans, set the environment
# variable `DATA` to a folder in the style of the Medical Segmentation Decathlon, such as `Task04_Hippocampus`
# (Simpson et al. 2019, CC BY-SA 4.0).
#
# **Install.** In a clone of the repository: `pip install ".[tutorials]"`. This is research software,
# not a medical device.

# %%
import logging
import os
import tempfile
from pathlib import Path

import yaml
from IPython.display import Image
from monai.bundle import run

from monai_essa.bundling.folder import bundle_folder
from monai_essa.data import load_datalist
from monai_essa.demo.cohort import CohortSize
from monai_essa.demo.data import cohort_data, own_data
from monai_essa.demo.outcome import read_case, read_dice, telling_cases
from monai_essa.report.charts import dice_by_case, figure_png, loss_curves, read_loss_log
from monai_essa.report.panels import segmentations

logging.disable(logging.WARNING)  # what the libraries say of themselves would fill this page
WORK = Path(tempfile.mkdtemp(prefix="essa_"))
SHAPE = (48, 64, 48)
size = CohortSize(source=12, unlabeled=12, training=3, validation=1, test=4)
if "DATA" in os.environ:
    data = own_data(Path(os.environ["DATA"]), WORK / "datalist.json", size, SHAPE, seed=0)
else:
    data = cohort_data(WORK / "cohort", size, seed=0)
print(*data.about, sep="\n")

# %% [markdown]
# ## One file for the site
#
# One file holds what all stages share: the data, the voxel size, and the size of the network, which is small here.

# %%
site = {
    "datalist": str(data.datalist),
    "spacing": list(data.card.spacing),
    "img_size": list(SHAPE),
    "hidden_size": 96,
    "mlp_dim": 384,
    "num_heads": 6,
}
(WORK / "site.yaml").write_text(yaml.safe_dump(site))


def stage(name: str, bundle: str, *overlays: str, **values: object) -> Path:
    """As `python -m monai.bundle run --config_file "[train.yaml, ..., site.yaml]" --key value`, in this process."""
    configs = [str(bundle_folder(bundle) / "configs" / file) for file in ("train.yaml", *overlays)]
    run(config_file=[*configs, str(WORK / "site.yaml")], logging_file=False, output_dir=str(WORK / name), **values)
    return WORK / name


# %% [markdown]
# ## Stage 1: a pretrained encoder
#
# You would use a public one. Here every parameter of a small ViT is trained on the unlabelled scans of scanner A
# (MAE).

# %%
steps = {"batch_size": 4, "samples_per_epoch": 80, "lr": 1.0e-3}  # an epoch is 20 steps
pretrained = stage("pretrain", "essa_ssa", "method_full.yaml", section=data.sections["source"], max_epochs=4, **steps)
base = {"pretrained": str(pretrained / "model.pt")}

# %% [markdown]
# ## Stage 2: TPP
#
# Only LoRA's matrices are trained, on the unlabelled scans of scanner B. The pretext decoder of stage 1 is used
# again.

# %%
tpp = stage(
    "tpp",
    "essa_tpp",
    section=data.sections["unlabeled"],
    pretext_head=str(pretrained / "pretext_head.safetensors"),
    max_epochs=4,
    **base,
    **steps,
)
logs = {"pretraining on scanner A, all": pretrained, "TPP on scanner B, LoRA": tpp}
logs = {name: read_loss_log(folder / "losses.jsonl") for name, folder in logs.items()}
logs = {name: {"iteration": log["iteration"], "loss": log["validation.loss"]} for name, log in logs.items()}
print(f"adapter.safetensors: {(tpp / 'adapter.safetensors').stat().st_size / 1e6:.2f} MB")
Image(figure_png(loss_curves(logs, title="Masked autoencoding: loss on held-out scans of each stage")))

# %% [markdown]
# ## Stage 3: three labels
#
# The same LoRA matrices and the decoder of a UNETR learn to segment, once from the adapter of TPP (`start: adapter`)
# and, as the control, once from LoRA's own start (`start: encoder`). Base, labels, steps and seed are the same.

# %%
task = {
    "section": data.sections["training"],
    "validation_section": data.sections["validation"],
    "labels": dict(data.card.labels),
    "feature_size": 4,
    "batch_size": 1,
    "samples_per_epoch": 10,
    "max_epochs": 4,
    "val_interval": 2,
    "lr": 2.0e-3,
    "head_lr_factor": 5.0,
}
with_tpp = stage("with_tpp", "essa_segmentation", adapter=str(tpp / "adapter.safetensors"), **base, **task)
without = stage("without_tpp", "essa_segmentation", "method_lora.yaml", start="encoder", **base, **task)

# %% [markdown]
# ## Test
#
# `evaluate.yaml`, added to the same configs, scores the finished run on scans that no stage has seen.

# %%
task["validation_section"] = data.sections["test"]
stage("with_tpp", "essa_segmentation", "evaluate.yaml", **task)
stage("without_tpp", "essa_segmentation", "evaluate.yaml", **task)
classes = list(data.card.labels)[1:]
dice = {
    name: read_dice(folder / "test" / "dice_raw.csv", classes)
    for name, folder in {"with TPP": with_tpp, "without TPP": without}.items()
}
Image(figure_png(dice_by_case(dice)))

# %% [markdown]
# **How to read this.** On the demo cohort there is no visible difference: the decoder of a UNETR sees the image at
# full resolution and learns from the labels, whatever the encoder provides. TPP did lower its own loss, shown above.
# Only your own scans and labels can show whether it helps, and the control is one line. (This is one seed, four test
# cases, and minutes of training.)
#
# `inference.yaml` names only MONAI components and predicts with the merged network. The figure shows the test cases
# with the highest and the lowest Dice:

# %%
best, worst = telling_cases(dice["with TPP"])
items = load_datalist(data.datalist, data.sections["test"])
cases = []
for number in (best, worst):
    inference = bundle_folder("essa_segmentation") / "configs" / "inference.yaml"
    run(
        config_file=[str(inference), str(WORK / "site.yaml")],
        logging_file=False,
        checkpoint=str(with_tpp / "model.pt"),
        data=[{"image": items[number]["image"]}],
        labels=dict(data.card.labels),
        feature_size=task["feature_size"],
        output_dir=str(WORK / f"case_{number}"),
    )
    (predicted,) = (path for path in (WORK / f"case_{number}").rglob("*") if path.is_file())
    cases.append(read_case("best case" if number == best else "worst case", items[number], predicted))
Image(figure_png(segmentations(cases, classes)), width=640)
