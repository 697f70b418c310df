# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Write an adapter as a folder in the conventions of the Hugging Face hub; ``load_adapter`` takes the folder back.

``adapter_model.safetensors`` is the adapter file, byte for byte, with its record and checksums; loading trusts nothing
else of the folder. ``adapter_config.json`` repeats the record for people and programs that list adapters.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_essa.adapters.file import AdapterFile, read_adapter
from monai_essa.adapters.hub.card import CardFacts, base_model_name, model_card
from monai_essa.adapters.hub.peft_format import peft_tensors, write_peft_folder
from monai_essa.adapters.record import FOLDER_FILE, AdapterHeader, read_header
from monai_essa.files import folder_written_whole, write_text_whole
from monai_essa.licence import check_permission, licence_text
from monai_essa.outside import check_config_value

__all__ = ["HubFolder", "export_hub"]

# Fields of the record that another program may want; the checksums stay in the file that they protect.
_SHOWN = ("format_version", "methods", "also_train", "network", "versions", "preprocessing")


@dataclass(frozen=True)
class HubFolder:
    """A folder that was written.

    Attributes:
        path: of the folder.
        without_peft: why there is no folder ``peft`` in it; empty if there is one.
    """

    path: Path
    without_peft: str = ""


def export_hub(source: str | Path, folder: str | Path, facts: CardFacts | None = None) -> HubFolder:
    """Write a folder with the adapter, its configuration, a model card and the licence of the base.

    A LoRA adapter whose updates act on whole layers is written in peft's own format too, into the folder ``peft``.

    Args:
        source: an adapter file, or the folder of a run that wrote one.
        folder: a new folder; it appears under its name only when complete.
        facts: for the model card; default: nothing beyond what the file says.

    Returns:
        The folder.

    Raises:
        FileExistsError: if something of that name exists.
        FileNotFoundError: if there is no adapter file.
        ValueError: if the file is damaged, or the licence of the base forbids to share modified weights and ``facts``
            give no permission.
    """
    folder, facts = Path(folder), facts or CardFacts()
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(f"{folder} exists; expected a new folder: give another --out or move the old one away")
    file, header = read_adapter(source), read_header(source)
    origin = check_permission(header.record.get("base"), facts.permission, f"the adapter {header.path.name}")
    without_peft = _why_without_peft(file)
    with folder_written_whole(folder) as partial:
        partial.mkdir()
        shutil.copyfile(file.path, partial / FOLDER_FILE)
        _write_config(header, partial, facts)
        write_text_whole(partial / "README.md", model_card(header, facts, with_peft=not without_peft))
        if origin is not None:
            write_text_whole(partial / "LICENSE", licence_text(origin))
        if not without_peft:
            (partial / "peft").mkdir()
            write_peft_folder(file, partial / "peft", base_model_name(header, facts.base_model))
    return HubFolder(folder, without_peft)


def _why_without_peft(file: AdapterFile) -> str:
    try:
        peft_tensors(file)
    except ValueError as error:
        return str(error)
    return ""


def _write_config(file: AdapterHeader, folder: Path, facts: CardFacts) -> None:
    content: dict[str, Any] = {
        "library_name": "monai_essa",
        "base_model_name_or_path": base_model_name(file, facts.base_model),
        **{name: file.record[name] for name in _SHOWN},
        "base": file.record.get("base"),
    }
    checked = check_config_value(content, f"{file.path}, its record")
    write_text_whole(folder / "adapter_config.json", json.dumps(checked, indent=2, ensure_ascii=False) + "\n")
