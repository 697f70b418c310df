# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`weights check` tells what a file is, and the overlay that it writes makes a bundle take the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from monai.networks.nets import SegResNet, SegResNetDS, SwinUNETR, resnet10

from monai_essa.cli import main
from monai_essa.weights.family_files import check_weights, overlay_text
from tests.weights.fabricated import State, swin_file, vit_file, wrapped


def swin_ssl() -> State:
    return swin_file(SwinUNETR(1, 2, feature_size=12), "ssl")


def voco() -> State:
    return wrapped(SwinUNETR(1, 2, feature_size=12, use_v2=True).state_dict(), "state_dict", "module.")  # type: ignore[return-value]


def timm() -> State:
    return {
        key: tensor.float() for key, tensor in vit_file(dims=3, width=64, patch=16, channels=1, grid=(6, 6, 6)).items()
    }


def segresnet() -> State:
    return {f"module.{key}": tensor for key, tensor in SegResNet(init_filters=8).state_dict().items()}


def segresnet_ds() -> State:
    return SegResNetDS(init_filters=8, blocks_down=(1, 1)).state_dict()


FILES: dict[str, tuple[Callable[[], State], str, str]] = {
    "swin_ssl": (swin_ssl, "swin", "SwinUNETR(spatial_dims=3, in_channels=1, feature_size=12"),
    "voco": (voco, "monai", "SwinUNETR("),
    "timm": (timm, "vit", "ViT(spatial_dims=3, in_channels=1, patch_size=16, hidden_size=64"),
    "segresnet": (segresnet, "monai", "SegResNet("),
    "segresnet_ds": (segresnet_ds, "monai", "SegResNetDS("),
}


@pytest.mark.parametrize("name", FILES)
def test_the_overlay_makes_the_bundle_take_the_file(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, key_map, network = FILES[name]
    torch.save(make(), f"{name}.pt")

    assert main(["weights", "check", f"{name}.pt", "--args", "device=cpu"]) == 0

    out = capsys.readouterr().out
    assert f"keys '{key_map}'" in out and f"network: {network}" in out
    assert "100.0% of the encoder loaded" in out
    assert yaml.safe_load(Path(f"{name}.yaml").read_text(encoding="utf-8"))["pretrained"] == f"{name}.pt"


def test_a_network_of_another_width_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(swin_ssl(), "swin.pt")
    options = ["--network", "swin_unetr", "--args", "device=cpu", "feature_size=24"]
    assert main(["weights", "check", "swin.pt", *options]) == 1
    error = capsys.readouterr().err
    assert "feature_size is 12 in the file and 24 in the network" in error and error.count("\n") == 1
    assert not list(tmp_path.glob("*.yaml"))


def test_an_overlay_is_never_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(segresnet(), "a.pt")
    Path("a.yaml").write_text("mine", encoding="utf-8")
    assert main(["weights", "check", "a.pt"]) == 1
    assert "a.yaml exists" in capsys.readouterr().err
    assert Path("a.yaml").read_text(encoding="utf-8") == "mine"


def test_registers_are_named_and_no_overlay_is_made(tmp_path: Path) -> None:
    torch.save(vit_file(scale=True) | {"register_tokens": torch.zeros(1, 4, 24)}, tmp_path / "reg4.pt")
    check = check_weights(tmp_path / "reg4.pt")
    assert "refused: the file has register tokens" in str(check)
    with pytest.raises(ValueError, match=r"reg4\.pt: the file has register tokens"):
        overlay_text(check, "run")


def test_a_resnet_is_told_by_its_blocks(tmp_path: Path) -> None:
    network = resnet10(spatial_dims=3, n_input_channels=1, feed_forward=False, bias_downsample=False)
    torch.save(
        {"state_dict": {f"module.{key}": t for key, t in network.state_dict().items()}}, tmp_path / "resnet_10.pth"
    )
    check = check_weights(tmp_path / "resnet_10.pth")
    assert check.constructor.network == "resnet10" and check.prefix == "state_dict.module."
    assert check.family is not None and check.family.name == "medicalnet"


def test_a_file_of_no_encoder_is_named(tmp_path: Path) -> None:
    torch.save({"eva.pos_embed": torch.zeros(1, 8, 864)}, tmp_path / "primus.pt")
    with pytest.raises(ValueError, match=r"primus\.pt: none of its 1 tensors is of an encoder that is known"):
        check_weights(tmp_path / "primus.pt")


def test_the_list_names_every_family_with_its_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list"]) == 0
    out = capsys.readouterr().out
    assert "suprem\n" in out and "licence: CC BY-NC-ND 4.0 (NC, ND)" in out and "checked with: " in out


@pytest.mark.parametrize("name", ["$open('ran','w').pt", "@network.pt", "%train.yaml.pt"])
def test_a_name_that_would_be_code_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(segresnet(), name)
    assert main(["weights", "check", name, "--out", "out.yaml"]) == 1
    assert "the path of the weight file: text that begins with" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_lines_in_a_name_stay_in_the_comment(tmp_path: Path) -> None:
    path = tmp_path / "a\nlr: 9.pt"
    torch.save(segresnet(), path)
    check = check_weights(path)
    assert str(check).startswith("a\\nlr: 9.pt: keys")
    text = overlay_text(check, f"probe {path}")
    assert yaml.safe_load(text).keys() == {"pretrained", "spatial_dims", "in_channels", "feature_size"}


def test_a_datalist_that_would_be_code_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["weights", "probe", "a.pt", "$open('ran','w')"]) == 1
    assert "is code to MONAI" in capsys.readouterr().err and not Path("ran").exists()
