# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The model card of an adapter: what it is, its base and licence, how well it did, on which kind of scans, its limits.

What a record says was written by somebody else: each value is escaped, in the YAML of the front matter and in Markdown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from monai_essa.adapters.record import AdapterHeader, methods_text
from monai_essa.files import json_sha256
from monai_essa.licence import licence_line, licence_text
from monai_essa.outside import Text, check_config_value, printable

__all__ = ["CardFacts", "base_model_name", "front_matter", "markdown_text", "model_card"]

_HUB_ID = Text(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?", 96)
# Licences by the names that monai_essa writes, and the identifiers that the hub knows.
_IDENTIFIERS = {
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "CC BY 4.0": "cc-by-4.0",
    "CC BY-SA 4.0": "cc-by-sa-4.0",
    "CC BY-NC 4.0": "cc-by-nc-4.0",
    "CC BY-NC-SA 4.0": "cc-by-nc-sa-4.0",
    "CC BY-NC-ND 4.0": "cc-by-nc-nd-4.0",
    "GPL-3.0": "gpl-3.0",
}
_INTENDED = (
    "Research on images like those that it was trained on. It is not a medical device, and nothing here is fit for the "
    "care of a patient."
)
_LIMITS = (
    "It works on its base alone. Loading compares a checksum of every frozen tensor of the encoder, and refuses "
    "another network.",
    "It expects the preprocessing that is given above. Other scanners, protocols and populations may need an adapter "
    "of their own: measure before you rely on it.",
    "Trained values can carry information about the scans that they were trained on. Decide about sharing them as you "
    "would about sharing the scans.",
)


@dataclass(frozen=True)
class CardFacts:
    """What a card says that the adapter file does not know.

    Attributes:
        title: heading of the card.
        performance: sentences on how well it did and on what; empty if nothing was measured.
        metrics: identifiers of the metrics in these sentences, as ``"dice"``.
        data: sentences on the training data, without any name of a patient or a folder.
        base_model: identifier of the base on the hub, as ``"owner/name"``; None takes the name of its family.
        permission: who allowed to share weights that derive from the base, where its licence asks for that.
    """

    title: str = "Adapter of a MONAI network"
    performance: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    base_model: str | None = None
    permission: str | None = None


def model_card(file: AdapterHeader, facts: CardFacts, with_peft: bool = False) -> str:
    """Return the text of a ``README.md`` with its front matter.

    Args:
        file: header of the adapter file.
        facts: what the file does not know.
        with_peft: whether the folder ``peft`` lies beside it.

    Raises:
        ValueError: if a value of the record would be more than text in a configuration, or ``base_model`` is no
            identifier of the hub.
    """
    record = file.record
    parts = [
        f"---\n{yaml.safe_dump(front_matter(file, facts), sort_keys=False, allow_unicode=True)}---",
        f"# {markdown_text(facts.title)}",
        _INTRODUCTION,
        *_section("What it is", _listed(_content(file))),
        *_section("How to use it", _usage(record, with_peft)),
        *_section("Performance", _sentences(facts.performance, "Not measured, or not stated by who made this folder.")),
        *_section("Training data", _training_data(record, facts)),
        *_section("Intended use", _INTENDED),
        *_section("Limits", _listed(("", line) for line in _LIMITS)),
        *_section("Base and licence", _base(record, facts)),
    ]
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = (
    "An adapter file of monai_essa: the tensors of a network that were trained, without the base that they belong to. "
    "Research software, not a medical device."
)


def front_matter(file: AdapterHeader, facts: CardFacts) -> dict[str, Any]:
    """Return the metadata that the hub reads: base_model, library_name, license, tags and metrics."""
    matter = {
        "base_model": base_model_name(file, facts.base_model),
        "library_name": "monai_essa",
        **_licence_fields(file.record.get("base")),
        "tags": ["monai", "monai_essa", "medical-imaging", "adapter", *_method_tags(file.record)],
        "metrics": list(facts.metrics),
    }
    checked: dict[str, Any] = check_config_value(matter, f"{file.path}, its record")
    return checked


def base_model_name(file: AdapterHeader, given: str | None = None) -> str:
    """Return an identifier of the base: the given one, the family of its weights, or a digest of its frozen tensors.

    Args:
        file: header of the adapter file.
        given: identifier on the hub.

    Raises:
        ValueError: if the given text is not an identifier.
    """
    if given is not None:
        return _HUB_ID.check(given, "--base-model")
    family = (file.record.get("base") or {}).get("family")
    digest = json_sha256(file.record["fingerprint"])[:12]
    return (_slug(family) if family else "") or f"base-{digest}"


def markdown_text(text: str) -> str:
    r"""Return text that Markdown shows as it is, on one line and without HTML.

    Example:
        >>> markdown_text("*a* <b> [c](d)\n# e")
        '\\*a\\* &lt;b&gt; \\[c\\](d)\\\\n\\# e'
    """
    escaped = re.sub(r"([\\`*_\[\]#|~$!])", r"\\\1", printable(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _content(file: AdapterHeader) -> Iterator[tuple[str, str]]:
    record = file.record
    yield "method", methods_text(record)
    yield "network", record["network"]
    yield "also trained", ", ".join(record["also_train"]) or "nothing"
    values = sum(math.prod(tensor.shape) for tensor in file.tensors.values())
    yield "size", f"{len(file.tensors)} tensors with {values:,} values, {file.path.stat().st_size / 1e6:.2f} MB"
    yield "made with", ", ".join(f"{name} {version}" for name, version in record["versions"].items())


def _usage(record: Mapping[str, Any], with_peft: bool) -> str:
    lines = [
        "```python",
        "from monai_essa import load_adapter, load_weights, merge",
        "",
        f"network = ...  # the plain network of class {record['network']}, built as for the base",
        'load_weights(network, "base.pt")',
        'load_adapter(network, "FOLDER")  # this folder',
        "plain = merge(network)  # the stock class with its plain names, which needs monai_essa no more",
        "```",
    ]
    if with_peft:
        lines += [
            "",
            "The folder `peft` holds the LoRA matrices of the encoder in the format of the peft package:",
            "",
            "```python",
            "from peft import PeftModel",
            "",
            'encoder = PeftModel.from_pretrained(encoder, "FOLDER", subfolder="peft")',
            "```",
        ]
    return "\n".join(lines)


def _training_data(record: Mapping[str, Any], facts: CardFacts) -> str:
    card = [(name, str(value)) for name, value in record["preprocessing"].items()]
    told = _sentences(facts.data, "The file does not say which scans it was trained on, and no name of one is stored.")
    return f"{told}\n\nPreprocessing:\n\n{_listed(card) if card else 'Not stated.'}"


def _base(record: Mapping[str, Any], facts: CardFacts) -> str:
    frozen = record["fingerprint"]
    digest = f"The digest of its {len(frozen)} frozen encoder tensors begins with {json_sha256(frozen)[:12]}."
    origin = record.get("base")
    if origin is None:
        return f"The origin of the base was not recorded, so its licence is unknown here. {digest}"
    permission = {} if facts.permission is None else {"permission": facts.permission}
    rows = [("licence", licence_line(origin)), *(("cite", each) for each in origin["cite"])]
    said = licence_text({**origin, **permission}).partition("\n\n")[0].replace("\n", " ")
    given = [("permission to share", permission["permission"])] if permission else []
    return f"{markdown_text(said)}\n\n{_listed([*rows, *given])}\n\n{digest}"


def _licence_fields(origin: Mapping[str, Any] | None) -> dict[str, str]:
    name = origin["licence"] if origin else None
    if name is None:
        return {"license": "unknown"}
    if name in _IDENTIFIERS:
        return {"license": _IDENTIFIERS[name]}
    link = {"license_link": origin["url"]} if origin and origin["url"] else {}
    return {"license": "other", "license_name": _slug(name) or "other", **link}


def _method_tags(record: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(entry["name"].lower() for entry in record["methods"]))


def _section(title: str, text: str) -> tuple[str, str]:
    return f"## {title}", text


def _listed(rows: Any) -> str:
    return "\n".join(
        f"- {markdown_text(name)}: {markdown_text(text)}" if name else f"- {markdown_text(text)}" for name, text in rows
    )


def _sentences(texts: tuple[str, ...], otherwise: str) -> str:
    return " ".join(map(markdown_text, texts)) or otherwise


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:64].strip("-")
