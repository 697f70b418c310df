# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Take network, weights, spacing, orientation, intensity window and labels from a bundle of the model zoo, as data.

A bundle's config is a program to MONAI. Here it is data of unknown origin: literals are read, ``@`` references to
literals are followed, and nothing is evaluated or imported. What an expression would compute is named and asked for.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn as nn
import yaml
from monai.networks import nets

from monai_essa.outside import Number, Text, shown

__all__ = ["ZooBundle", "read_zoo_bundle", "zoo_network"]

_CONFIGS = ("inference.json", "inference.yaml", "inference.yml", "train.json", "train.yaml", "train.yml")
_LARGEST = 5 << 20
_DEEPEST = 20
_MOST_ENTRIES = 100_000
_LONGEST = 1000
_SIZE = Number(-100_000, 100_000)
_LINE = Text(longest=200)
# Arguments that older releases of MONAI took and that change nothing: a Swin transformer fits every image.
_WITHOUT_EFFECT = ("img_size",)


@dataclass(frozen=True)
class ZooBundle:
    """What a bundle says in literals.

    Attributes:
        folder: of the bundle.
        title: its name and version.
        config: the entries of its config by id; not resolved.
        card: ``spacing``, ``axcodes`` and ``window`` of its transforms, as far as they are literals.
        labels: the name of each output channel by its number, or None.
    """

    folder: Path
    title: str
    config: Mapping[str, Any]
    card: Mapping[str, Any]
    labels: Mapping[str, str] | None

    @property
    def weights(self) -> Path:
        """Return models/model.pt.

        Raises:
            FileNotFoundError: if the bundle has none.
        """
        path = self.folder / "models" / "model.pt"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no such file; the model zoo keeps large files apart: get those that large_files.yml lists"
            )
        return path

    def argument(self, name: str, default: Any = None) -> Any:
        """Return an argument of ``network_def``; None if an expression computes it.

        Args:
            name: of the argument.
            default: returned where ``network_def`` does not name it.
        """
        given = self.config.get("network_def")
        return _known(given.get(name, default), self.config) if isinstance(given, Mapping) else None


def read_zoo_bundle(folder: str | Path, values: Mapping[str, Any] | None = None) -> ZooBundle:
    """Read a bundle folder.

    Args:
        folder: with ``configs`` in it.
        values: entries that replace those of the config, by id, such as ``{"network_def#out_channels": 3}``.

    Returns:
        The bundle; what its transforms compute by an expression is left out of the card.

    Raises:
        FileNotFoundError: if there is no such folder, or it has no config.
        ValueError: if a file is damaged or too large.
    """
    folder = Path(folder)
    path = next((folder / "configs" / name for name in _CONFIGS if (folder / "configs" / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder} is no bundle: expected a folder with configs/inference.json or .yaml")
    config, metadata = _mapping(path), {}
    if (folder / "configs" / "metadata.json").is_file():
        metadata = _mapping(folder / "configs" / "metadata.json")
    for name, value in (values or {}).items():
        config = _replaced(config, str(name).split("#"), value)
    title = [metadata.get(name) for name in ("name", "version")]
    words = [_LINE.check(word, f"{folder}, metadata.json") for word in title if word is not None]
    return ZooBundle(folder, " ".join(words) or folder.name, config, _card(config), _labels(metadata))


def zoo_network(folder: str | Path, values: Mapping[str, Any] | None = None) -> nn.Module:
    """Build the network of a bundle, with random weights; its class has to be one of ``monai.networks.nets``.

    Args:
        folder: of the bundle.
        values: entries that the bundle computes by expressions, by id.

    Returns:
        The network.

    Raises:
        FileNotFoundError: as :func:`read_zoo_bundle`.
        ValueError: as :func:`read_zoo_bundle`, or if the class is another, refuses its arguments, or an argument is an
            expression; the message names the entry to give.
    """
    bundle = read_zoo_bundle(folder, values)
    given = bundle.config.get("network_def")
    if not isinstance(given, Mapping) or not isinstance(given.get("_target_"), str):
        raise ValueError(f"{bundle.folder}: expected 'network_def' with '_target_' in its config, got {shown(given)}")
    kind = _network_class(given["_target_"], bundle.folder)
    parameters = inspect.signature(kind).parameters
    arguments = {}
    for name, value in given.items():
        if name in ("_target_", "_desc_") or (name in _WITHOUT_EFFECT and name not in parameters):
            continue
        if name not in parameters:
            raise ValueError(f"{bundle.folder}: {kind.__name__} of this MONAI takes no {shown(name)} (in network_def)")
        arguments[name] = _literal(value, f"network_def#{name}", bundle.config, bundle.folder)
    try:
        return kind(**arguments)
    except Exception as error:  # whatever a constructor makes of values from outside
        line = str(error).partition("\n")[0]
        raise ValueError(f"{bundle.folder}: {kind.__name__} refuses its network_def: {line}") from error


def _mapping(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path} has more than {_LARGEST >> 20} MB; expected a config")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        line = str(error).partition("\n")[0]
        raise ValueError(f"{path} is damaged: {line}; copy it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping of entries by id, got {shown(content)}")
    _refuse_endless(content, path)
    return content


def _refuse_endless(content: Any, path: Path) -> None:
    """Refuse a file that is small on the disk and, by aliases of YAML, endless when its entries are walked through."""
    waiting, entries = [content], 0
    while waiting:
        value = waiting.pop()
        entries += 1
        if entries > _MOST_ENTRIES:
            raise ValueError(f"{path} has more than {_MOST_ENTRIES:,} entries; expected a config")
        waiting += value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()


def _replaced(config: dict[str, Any], parts: list[str], value: Any) -> dict[str, Any]:
    first, *rest = parts
    inner = config.get(first)
    return config | {first: _replaced(inner if isinstance(inner, dict) else {}, rest, value) if rest else value}


def _network_class(target: str, folder: Path) -> type[nn.Module]:
    module, _, name = target.rpartition(".")
    kind = getattr(nets, name, None) if name.isidentifier() else None
    of_monai = module == "" or module == nets.__name__ or module.startswith(f"{nets.__name__}.")
    if not of_monai or not inspect.isclass(kind) or not issubclass(kind, nn.Module):
        raise ValueError(f"{folder}: its network_def names {shown(target)}; expected a class of monai.networks.nets")
    return kind


def _literal(value: Any, where: str, config: Mapping[str, Any], folder: Path, depth: int = 0) -> Any:
    """Return a literal, with references followed; raise for what would have to be computed."""
    if depth > _DEEPEST:
        raise ValueError(f"{folder}: {where} refers to itself, or nests without end; give {where}=VALUE")
    if isinstance(value, str) and value.startswith("@"):
        name = value[1:].replace("::", "#")
        return _literal(_entry(config, name), name, config, folder, depth + 1)
    if isinstance(value, Mapping) and "_target_" not in value:
        return {str(key): _literal(item, f"{where}#{key}", config, folder, depth + 1) for key, item in value.items()}
    if isinstance(value, list) and len(value) <= _LONGEST:
        return [_literal(item, f"{where}#{number}", config, folder, depth + 1) for number, item in enumerate(value)]
    if value is None or isinstance(value, bool) or (isinstance(value, str) and not value.startswith(("$", "%"))):
        return value
    if isinstance(value, int | float):
        return _SIZE.check(value, f"{folder}: {where}")
    raise ValueError(f"{folder}: {where} is computed ({shown(value)}), and nothing is evaluated; give {where}=VALUE")


def _entry(config: Mapping[str, Any], name: str) -> Any:
    value: Any = config
    for part in name.split("#"):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return f"$@{name}"  # not there: to be given
    return value


def _card(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the card from the transforms, the first of each kind."""
    card: dict[str, Any] = {}
    for transform in _transforms(config.get("preprocessing", config.get("train")), 0):
        kind = str(transform["_target_"]).rpartition(".")[2]
        for name, keys in _TELLING.get(kind, {}).items():
            read = [_known(transform.get(key), config) for key in keys]
            if None not in read:
                card.setdefault(name, read if len(read) > 1 else read[0])
    return card


# What a transform tells: entry of the card, and the arguments that it is read from.
_TELLING: dict[str, dict[str, tuple[str, ...]]] = {
    "Spacingd": {"spacing": ("pixdim",)},
    "Orientationd": {"axcodes": ("axcodes",)},
    "ScaleIntensityRanged": {"window": ("a_min", "a_max")},
}


def _transforms(value: Any, depth: int) -> Iterator[Mapping[str, Any]]:
    if depth > _DEEPEST:
        return
    if isinstance(value, Mapping):
        if isinstance(value.get("_target_"), str):
            yield value
        for item in value.values():
            yield from _transforms(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            yield from _transforms(item, depth + 1)


def _known(value: Any, config: Mapping[str, Any]) -> Any:
    try:
        return _literal(value, "", config, Path())
    except ValueError:
        return None


def _labels(metadata: Mapping[str, Any]) -> dict[str, str] | None:
    value: Any = metadata
    for part in ("network_data_format", "outputs", "pred", "channel_def"):
        value = value.get(part) if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or len(value) > _LONGEST:
        return None
    return {_LINE.check(str(key), "channel_def"): _LINE.check(str(name), "channel_def") for key, name in value.items()}
