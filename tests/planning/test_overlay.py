# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""An overlay of a study: what it may hold, what each bundle gets of it, and the encoder that it describes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from monai_essa.planning.overlay import described_network, read_overlay, write_overlays

DESCRIBED = """
img_size: [32, 32]
+intensity:
- {_target_: RepeatChanneld, keys: image, repeats: 1}
encoder_def:
  _target_: monai_essa.anatomy.describe
  network: {_target_: tests.anatomy.own_encoders.OwnMaps}
  anatomy: {_target_: tests.anatomy.own_encoders.maps_anatomy}
"""


def overlay(text: str, folder: Path) -> Path:
    path = folder / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_plain_values_are_told_from_components(tmp_path: Path) -> None:
    found = read_overlay(overlay(DESCRIBED, tmp_path))
    assert found.values == {"img_size": [32, 32]} and list(found.parts) == ["+intensity", "encoder_def"]
    assert found.canonical() == read_overlay(overlay(DESCRIBED, tmp_path)).canonical() == yaml.safe_load(DESCRIBED)


def test_each_bundle_gets_what_it_has_and_the_encoder_under_its_own_name(tmp_path: Path) -> None:
    found = read_overlay(overlay(DESCRIBED, tmp_path))
    keys = frozenset({"intensity", "network_def", "encoder_def"})
    files = write_overlays(found, {"essa_ssa": keys, "essa_classification": keys, "essa_tpp": frozenset()}, tmp_path)
    read = {name: yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {} for name, file in files.items()}
    assert list(read["essa_ssa"]) == ["+intensity", "network_def"] and not read["essa_tpp"]
    assert list(read["essa_classification"]) == ["+intensity", "encoder_def"]
    assert read["essa_ssa"]["network_def"] == read["essa_classification"]["encoder_def"]


def test_the_described_encoder_tells_its_method_and_channels(tmp_path: Path) -> None:
    found = described_network(read_overlay(overlay(DESCRIBED, tmp_path)), {})
    assert (found.name, found.method, found.in_channels) == ("OwnMaps of own.yaml", "apla", 1)
    assert found.overlay == () and not found.adds_tensors


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("lr: $1 + 1", "lr.: expected a value, a component or a reference, got the expression '[$]1"),
        ("encoder_def: {_target_: a.b, x: [$print(1)]}", "got the expression '[$]print"),
        ("encoder_def: '%other.yaml#x'", "got the expression"),
        ("encoder_def: {_requires_: x}", "expected the name of an argument, got '_requires_'"),
        ("network_def: {_target_: a.b}", "stands under 'encoder_def', not 'network_def'"),
        ("- a", "expected a config, which is a mapping"),
    ],
)
def test_what_is_no_data_is_refused_in_a_line(text: str, error: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^[^\n]*own\.yaml[^\n]*{error}[^\n]*$"):
        read_overlay(overlay(text, tmp_path))


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("{_target_: no_such_module.Encoder}", "expected an encoder, got"),
        ("{_target_: torch.nn.Identity}", "expected _target_ monai_essa.anatomy.describe .* got a Identity without"),
    ],
)
def test_an_encoder_that_is_not_described_is_refused_in_a_line(target: str, error: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^own\.yaml, encoder_def: [^\n]*{error}[^\n]*$"):
        described_network(read_overlay(overlay(f"encoder_def: {target}", tmp_path)), {})
