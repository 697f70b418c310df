# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A user's overlay of a study: values, transforms, and an encoder that MONAI lacks, put over every stage.

An overlay is a config of MONAI, as ``weights probe --overlay`` reads it. It names components, references and values,
but no expression, so that what a study runs can be read in its files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from ruamel.yaml.comments import CommentedMap

from monai_essa.anatomy import encoder_view
from monai_essa.anatomy.described.description import described
from monai_essa.bundling.folder import check_configs
from monai_essa.bundling.yaml_text import yaml_node, yaml_text
from monai_essa.files import write_text_whole
from monai_essa.outside import shown
from monai_essa.planning.networks import Network

__all__ = ["Overlay", "described_network", "read_overlay", "write_overlays"]

_ENCODER = "encoder_def"  # the key of essa_classification; the encoder is the whole network of the other bundles
_MARKS = {"_target_", "_mode_", "_disabled_"}
_WIDTH = 16  # of the network that learns from scratch beside it
_SIDE = 224  # pixels of an image, unless img_size says it
_BASES = ("essa_ssa", "essa_tpp")


@dataclass(frozen=True)
class Overlay:
    """What a user puts over the configs of every stage.

    Attributes:
        name: of the file, for people.
        parts: by key of the configs: components, and lists to be appended under ``+key``.
        values: the plain ones, which a user may also give as ``KEY=VALUE``.
    """

    name: str
    parts: Mapping[str, Any]
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def describes(self) -> bool:
        """Tell whether it brings an encoder."""
        return _ENCODER in self.parts

    def canonical(self) -> dict[str, Any]:
        """Return its content as plain values: the same file in another place is the same overlay."""
        content: dict[str, Any] = json.loads(json.dumps({**self.values, **self.parts}))
        return content

    def of_bundle(self, bundle: str, known: frozenset[str]) -> dict[str, Any]:
        """Return the parts that a bundle has, its encoder under the bundle's name of it.

        Args:
            bundle: its name.
            known: the keys of its train.yaml.
        """
        parts = dict(self.parts)
        if bundle in _BASES:  # also a part of it, as encoder_def#network
            parts = {re.sub(rf"^(\+?){_ENCODER}(?=#|$)", r"\1network_def", key): part for key, part in parts.items()}
        return {key: part for key, part in parts.items() if key.lstrip("+").partition("#")[0] in known}


def read_overlay(path: Path) -> Overlay:
    """Read an overlay.

    Args:
        path: a config in YAML or JSON.

    Returns:
        The overlay; whether its keys are those of a bundle is checked where the bundles are known.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a config, or holds an expression or a macro.
    """
    check_configs([path])
    content = ConfigParser.load_config_file(path)
    if _ENCODER not in content and "network_def" in content:
        raise ValueError(f"{path}: an encoder that MONAI lacks stands under '{_ENCODER}', not 'network_def'; rename it")
    for key, part in content.items():
        _check_part(part, f"{path}, {shown(key)}")
    plain = {key for key, part in content.items() if not key.startswith("+") and _is_plain(part)}
    return Overlay(
        path.name,
        {key: part for key, part in content.items() if key not in plain},
        {key: part for key, part in content.items() if key in plain},
    )


def write_overlays(overlay: Overlay, known: Mapping[str, frozenset[str]], folder: Path) -> dict[str, str]:
    """Write the part of an overlay that each bundle has, as a config of its own.

    Args:
        overlay: of the user.
        known: the keys of each bundle's train.yaml, by its name.
        folder: for the files.

    Returns:
        The path of each file by the name of its bundle.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for bundle, keys in known.items():
        path = folder / f"{bundle}.yaml"
        parts = overlay.of_bundle(bundle, keys)
        write_text_whole(path, yaml_text(CommentedMap({key: yaml_node(part) for key, part in parts.items()})))
        files[bundle] = str(path)
    return files


def described_network(overlay: Overlay, values: Mapping[str, Any]) -> Network:
    """Build the encoder that an overlay describes, and return what a study has to know of it.

    Args:
        overlay: with an encoder.
        values: of the configs, which the encoder may refer to.

    Raises:
        ValueError: if it cannot be built, or has no description.
    """
    parser = ConfigParser({**values, _ENCODER: overlay.parts[_ENCODER]})
    try:
        encoder = parser.get_parsed_content(_ENCODER)
    except (ImportError, AttributeError, TypeError, ValueError, RuntimeError, KeyError) as error:
        cause = error.__cause__ or error
        raise ValueError(
            f"{overlay.name}, {_ENCODER}: expected an encoder, got {type(cause).__name__}: {shown(str(cause))}; "
            "correct it, or put the folder of its code into PYTHONPATH"
        ) from error
    found = described(encoder)
    if found is None:
        raise ValueError(
            f"{overlay.name}, {_ENCODER}: expected _target_ monai_essa.anatomy.describe with network and anatomy, got "
            f"a {type(encoder).__name__} without a description"
        )
    kind = "described" if found[0].blocks is not None else "described_cnn"
    view: Any = encoder_view(encoder)
    name = f"{type(encoder).__name__} of {overlay.name}"
    return Network(name, kind, {}, _WIDTH, _SIDE, in_channels=view.in_channels)


def _check_part(part: Any, where: str) -> None:
    """Refuse what MONAI would evaluate or read from another file."""
    if isinstance(part, Mapping):
        for name, inner in part.items():
            if not isinstance(name, str) or (name.startswith(("_", "$", "@", "%", "+", "~")) and name not in _MARKS):
                raise ValueError(f"{where}: expected the name of an argument, got {shown(name)}")
            _check_part(inner, f"{where}.{shown(name)}")
    elif isinstance(part, list):
        for inner in part:
            _check_part(inner, where)
    elif isinstance(part, str) and part.lstrip().startswith(("$", "%")):
        raise ValueError(f"{where}: expected a value, a component or a reference, got the expression {shown(part)}")
    elif not (part is None or isinstance(part, (bool, int, float, str))):
        raise ValueError(f"{where}: expected a plain value, got a {type(part).__name__}")


def _is_plain(part: Any) -> bool:
    if isinstance(part, Mapping):
        return "_target_" not in part and all(map(_is_plain, part.values()))
    if isinstance(part, list):
        return all(map(_is_plain, part))
    return not (isinstance(part, str) and part.startswith("@"))
