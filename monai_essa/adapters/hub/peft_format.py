# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A LoRA adapter in the format of the peft package, for its encoder; the package itself is not needed to write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from monai_essa.adapters.file import AdapterFile
from monai_essa.files import write_text_whole, written_whole

__all__ = ["peft_config_values", "peft_tensors", "write_peft_folder"]

_PLACE = "encoder:"
_SIDES = ("lora_A", "lora_B")


def write_peft_folder(file: AdapterFile, folder: Path, base_model: str) -> None:
    """Write ``adapter_model.safetensors`` and ``adapter_config.json`` for ``peft.PeftModel.from_pretrained``.

    The names are relative to the encoder, so the folder is for the encoder with its base weights. Tensors outside of
    it, such as those of a trained decoder, are left out.

    Args:
        file: an adapter of the method LoRA.
        folder: an existing folder.
        base_model: name of the base, which peft keeps and does not look up.

    Raises:
        ValueError: as :func:`peft_tensors`.
    """
    tensors = peft_tensors(file)
    config = peft_config_values(file, base_model)
    with written_whole(folder / "adapter_model.safetensors") as temporary:
        temporary.write_bytes(save(tensors, metadata={"format": "pt"}))
    write_text_whole(folder / "adapter_config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")


def peft_tensors(file: AdapterFile) -> dict[str, torch.Tensor]:
    """Return the tensors of a LoRA adapter under peft's names.

    Args:
        file: the adapter.

    Returns:
        A and B of each layer, as ``base_model.model.blocks.0.attn.to_q.lora_A.weight``.

    Raises:
        ValueError: if the method is not LoRA alone, other tensors of the encoder were trained too, or an update acts on
            a part of a layer, as on the queries in a fused qkv. The message gives the reason.
    """
    if [entry["name"] for entry in file.record["methods"]] != ["LoRA"]:
        raise ValueError("peft's format holds LoRA alone, and this adapter has another method")
    updates = {_layer_of(name): tensor for name, tensor in file.tensors.items() if name.startswith(_PLACE)}
    names: dict[str, set[str]] = {}
    for path, _, update in updates:
        names.setdefault(path, set()).add(update)
    if partial := sorted(path for path, found in names.items() if not _acts_on_whole(path, found, names)):
        raise ValueError(
            f"peft updates whole layers, and '{partial[0]}' may compute queries, keys and values together; LoRA on a "
            "network with a layer for each of them has the format"
        )
    return {
        f"base_model.model.{path}.{side}.weight": tensor.contiguous() for (path, side, _), tensor in updates.items()
    }


def peft_config_values(file: AdapterFile, base_model: str) -> dict[str, Any]:
    """Return the fields of peft's ``LoraConfig`` that differ from its defaults.

    Args:
        file: an adapter that :func:`peft_tensors` accepts.
        base_model: name of the base.
    """
    values = file.record["methods"][0]["values"]
    paths = {name.removeprefix("base_model.model.").rsplit(".", 2)[0] for name in peft_tensors(file)}
    return {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": values["alpha"],
        "lora_dropout": values["dropout"],
        "peft_type": "LORA",
        "r": values["rank"],
        "target_modules": sorted(paths),
        "task_type": None,
    }


def _layer_of(name: str) -> tuple[str, str, str]:
    """Split ``encoder:blocks.0.attn.to_q.lora_A.q`` into layer, side and update; a convolution has no update name."""
    parts = name.removeprefix(_PLACE).split(".")
    for end, update in ((-2, parts[-1]), (-1, "all")):
        if len(parts) >= 1 - end and parts[end] in _SIDES:
            return ".".join(parts[:end]), parts[end], update
    raise ValueError(f"peft's format holds LoRA alone, and '{name}' of the encoder was trained too")


def _acts_on_whole(path: str, updates: set[str], names: dict[str, set[str]]) -> bool:
    """Tell whether the update of a layer is one of all its rows.

    A file does not say how many rows a layer has. Queries, keys and values have layers of their own if, beside this
    layer, another one in the same attention has one of the other two.
    """
    if updates == {"all"}:
        return True
    beside = path.rpartition(".")[0]
    others = [found for other, found in names.items() if other != path and other.rpartition(".")[0] == beside]
    return len(updates) == 1 and any(found & {"q", "k", "v"} for found in others)
