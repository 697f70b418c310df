# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The catalogue of families, and how a file finds its row."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import SegResNet, SegResNetDS, resnet152

from monai_essa import load_weights
from monai_essa.anatomy.key_maps import KEY_MAPS, VIT
from monai_essa.licence import ORIGIN, kept_card, kept_origin
from monai_essa.weights import resolve_pretrained
from monai_essa.weights.families import FABRICATED, FAMILIES, card_of, origin_of
from monai_essa.weights.family_files import family_named, family_of, key_maps_of
from monai_essa.weights.file import WeightFile

Build = Callable[..., nn.Module]
Write = Callable[..., Path]
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "public-weights.md"


def row(name: str) -> str:
    """The row of the page for a family."""
    family = family_named(name)
    files = ", ".join(f"`{file}`" for file in family.published.files[:2]) + (
        f" and {len(family.published.files) - 2} more" if len(family.published.files) > 2 else ""
    )
    licence = family.licence.name or "unknown"
    known = family.licence.restrictions
    limits = "unknown" if known is None else ", ".join(known) or "none of these"
    cells = [f"`{name}`", "; ".join(family.networks), files or "unknown", licence, limits]
    return f"| {' | '.join([*cells, family.licence.read or 'unknown', family.checked])} |"


def test_the_page_has_the_row_of_every_family() -> None:
    rows = re.findall(r"^\| `.*\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [row(family.name) for family in FAMILIES]


def test_rows_are_sound() -> None:
    names, grammars = [family.name for family in FAMILIES], {key_map.name for key_map in KEY_MAPS}
    assert len(set(names)) == len(names) and not grammars & set(names)
    files = [file for family in FAMILIES for file in family.published.files]
    assert len(set(files)) == len(files)
    for family in FAMILIES:
        assert family.key_map in grammars | {None}
        assert family.published.where and family.networks and family.checked
        assert {"NC", "ND", "SA"} >= set(family.licence.restrictions or ())
        assert ("NC" in (family.licence.name or "")) == ("NC" in (family.licence.restrictions or ()))
        assert ("ND" in (family.licence.name or "")) == ("ND" in (family.licence.restrictions or ()))
        ORIGIN.check(origin_of(family, 64 * "a"), family.name)
        json.dumps(card_of(family))


def test_the_arguments_of_the_catalogue_give_the_numbers_of_the_published_files() -> None:
    """At full width, without memory: 77.76 M in CT-FM's encoder, 930 tensors in Astra's file, 83 in SuPreM's."""
    with torch.device("meta"):
        ct_fm = SegResNetDS(init_filters=32, blocks_down=(1, 2, 2, 4, 4)).encoder
        sizes = {"n_input_channels": 3, "conv1_t_size": (3, 7, 7), "feed_forward": False, "bias_downsample": False}
        astra = resnet152(spatial_dims=3, shortcut_type="B", **sizes)
        suprem = SegResNet(init_filters=16, blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1))
    assert [len(each.state_dict()) for each in (ct_fm, astra, suprem)] == [161, 930, 83]
    assert sum(parameter.numel() for parameter in ct_fm.parameters()) == 77_760_992


def test_most_rows_say_that_nobody_opened_the_real_file() -> None:
    opened = {family.name for family in FAMILIES if family.checked != FABRICATED}
    assert opened == {"astra", "lite_medsam", "monai_mae"}


@pytest.mark.parametrize(
    ("name", "sha256", "family"),
    [
        ("mae_pretrain_vit_base.pth", 64 * "0", "mae"),
        ("medsam_vit_b.pth", 64 * "0", "medsam"),
        ("weights.pt", 64 * "0", None),
        ("model_swinvit.pt", 64 * "0", None),  # the name of another grammar's file
    ],
)
def test_the_name_of_a_file_tells_its_family(name: str, sha256: str, family: str | None) -> None:
    found = family_of(WeightFile(name, sha256, {}), VIT)
    assert (found and found.name) == family


def test_a_checksum_tells_the_family_whatever_the_name() -> None:
    (grammar,), astra = key_maps_of("astra")
    assert astra is not None
    assert family_of(WeightFile("renamed.pt", "d793f6bb" + 56 * "0", {}), grammar) == astra


def test_a_file_of_an_unknown_family_has_an_unknown_licence(build: Build, write: Write) -> None:
    network = build("vit")
    report = load_weights(network, write(build("vit").state_dict()))
    assert report.family is None and report.origin is not None and report.origin["licence"] is None
    assert "licence unknown: ask the authors" in str(report)
    assert kept_origin(network) == report.origin


def test_who_names_the_family_gets_its_licence(build: Build, write: Write) -> None:
    report = load_weights(build("swin"), write(build("swin").state_dict()), source="suprem")
    assert report.family == "suprem" and report.as_dict()["origin"]["restrictions"] == ["NC", "ND"]
    assert "licence CC BY-NC-ND 4.0 (NC: no commercial use; ND: modified weights must not be shared" in str(report)
    assert "  cite Li et al." in str(report)


def test_what_a_family_expects_is_kept_on_the_network(build: Build, write: Write) -> None:
    network = build("swin")
    report = load_weights(network, write(build("swin").state_dict()), source="ct_fm")
    assert report.preprocessing == kept_card(network) == {"axcodes": "SPL"}
    assert "  expects {'axcodes': 'SPL'}" in str(report)


def test_a_family_that_fits_no_network_of_monai_is_refused(build: Build, write: Write) -> None:
    with pytest.raises(ValueError, match="source 'lite_medsam': its files fit none of MONAI: a TinyViT"):
        load_weights(build("vit"), write(build("vit").state_dict()), source="lite_medsam")


def test_a_family_is_found_in_the_folder(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONAI_ESSA_WEIGHTS", str(tmp_path))
    torch.save(build("swin").state_dict(), tmp_path / "swin_unetr.base_5000ep_f48_lr2e-4_pretrained.pt")
    report = load_weights(build("swin"), "family:swin_unetr_btcv")
    assert report.family == "swin_unetr_btcv" and report.encoder_share == 1


def test_a_missing_file_says_where_it_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MONAI_ESSA_WEIGHTS", raising=False)
    with pytest.raises(FileNotFoundError, match=r"MONAI_ESSA_WEIGHTS is not set; .* https://huggingface.co/Luffy503"):
        resolve_pretrained("family:voco")
    monkeypatch.setenv("MONAI_ESSA_WEIGHTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="has none of its files; .* as VoCo_B_SSL_head.pt or VoCo_L"):
        resolve_pretrained("family:voco")


def test_several_files_of_a_family_are_not_chosen_among(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONAI_ESSA_WEIGHTS", str(tmp_path))
    for name in ("VoCo_B_SSL_head.pt", "VoCo_L_SSL_head.pt"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="has VoCo_B_SSL_head.pt, VoCo_L_SSL_head.pt; give pretrained=FILE"):
        resolve_pretrained("family:voco")


@pytest.mark.parametrize(
    ("name", "said"),
    [("voc", "'voc' is not known; give voco"), ("../x", "is not known"), ("ct_fm", "file names are unknown")],
)
def test_a_family_that_cannot_be_found_is_said(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONAI_ESSA_WEIGHTS", "/")
    with pytest.raises(ValueError, match=said):
        resolve_pretrained(f"family:{name}")


def test_a_path_is_a_path() -> None:
    assert resolve_pretrained("family.pt").path == Path("family.pt")
