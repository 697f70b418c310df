# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn as nn
from monai.bundle import ConfigParser
from safetensors import safe_open
from safetensors.torch import load_file, save_file

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from fastapi import HTTPException

from monai_essa import adapt, adapter_names, merge, save_adapter
from monai_essa.label.store import AdapterStore
from monai_essa.label.tasks.infer import AdapterInfer
from monai_essa.methods import APLA, AdaptationMethod, LoRA

IMAGE = torch.rand(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def task(bundle: Path) -> AdapterInfer:
    return AdapterInfer(bundle, {}, AdapterStore(bundle / "adapters"))


@pytest.fixture
def add(bundle: Path, task: AdapterInfer, tmp_path: Path) -> Callable[..., torch.Tensor]:
    """Gives a site an adapter, and returns what its merged network computes."""

    def make(site: str, method: AdaptationMethod, seed: int) -> torch.Tensor:
        network = adapt(base_of(bundle), method, also_train=[r"out\..*"])
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in (parameter for parameter in network.parameters() if parameter.requires_grad):
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        task.adapters.add(site, save_adapter(network, tmp_path / "adapter.safetensors"), {"labels": 3})
        return computed(merge(network).eval())

    return make


def base_of(bundle: Path) -> nn.Module:
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.yaml"))
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    return network.eval()


def computed(network: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return network(IMAGE)


def test_each_request_computes_with_its_adapter(
    bundle: Path, task: AdapterInfer, add: Callable[..., torch.Tensor]
) -> None:
    """Sites share a network, whatever their methods; the base is exact at any time."""
    base = computed(base_of(bundle))
    wanted = {"one": add("one", APLA(), 1), "two": add("two", APLA(), 2), "lora": add("lora", LoRA(), 3)}
    networks = []
    for name in ("base", "one", "base", "two", "one", "lora", "base", "two"):
        with task.network_with(name, "cpu") as network:
            networks.append(network)
            if name == "base":
                assert torch.equal(computed(network), base)
            else:
                torch.testing.assert_close(computed(network), wanted[name], atol=1e-5, rtol=1e-5)
            assert not network.training
    assert len({id(network) for network in networks}) == 1  # switched, not loaded again


def test_sites_that_alternate_read_no_file_and_a_replaced_file_is_read(
    task: AdapterInfer, add: Callable[..., torch.Tensor]
) -> None:
    wanted = {"one": add("one", APLA(), 1), "lora": add("lora", LoRA(dropout=0.5), 2)}
    for turn in range(2):
        for name in wanted:
            with task.network_with(name, "cpu") as network:
                torch.testing.assert_close(computed(network), wanted[name], atol=1e-5, rtol=1e-5)
            if turn == 0:
                damage(task.adapters.current(name))
    file = task.adapters.current("one")
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    with pytest.raises(HTTPException, match="the adapter cannot be used.*checksum"), task.network_with("one", "cpu"):
        pass


def damage(file: Path) -> None:
    """Flip a bit of an adapter without a trace in its header, size or time: whoever reads it refuses it."""
    times, content = file.stat(), file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 0x40]))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_few_adapters_stay_in_memory(task: AdapterInfer, add: Callable[..., torch.Tensor]) -> None:
    wanted = {f"site_{number}": add(f"site_{number}", LoRA(rank=2), number) for number in range(6)}
    for name in (*wanted, "site_0", "site_5"):
        with task.network_with(name, "cpu") as network:
            torch.testing.assert_close(computed(network), wanted[name], atol=1e-5, rtol=1e-5)
        assert len(adapter_names(network)) <= 4
    kept = [Path(name.partition(",")[0]).parent.name for name in adapter_names(network)]
    assert kept == ["site_3", "site_4", "site_5", "site_0"]


def test_a_new_version_is_used_and_an_undone_one_is_not(task: AdapterInfer, add: Callable[..., torch.Tensor]) -> None:
    wanted = [add("site", APLA(), 1), add("site", APLA(), 2)]
    with task.network_with("site", "cpu") as network:
        torch.testing.assert_close(computed(network), wanted[1], atol=1e-5, rtol=1e-5)
    task.adapters.undo("site")
    with task.network_with("site", "cpu") as network:
        torch.testing.assert_close(computed(network), wanted[0], atol=1e-5, rtol=1e-5)


def test_a_request_names_an_adapter(task: AdapterInfer, add: Callable[..., torch.Tensor]) -> None:
    assert [task.adapter_name(request) for request in ({}, {"adapter": "latest"})] == ["base", "base"]
    add("site", APLA(), 1)
    assert task.config()["adapter"] == ["latest", "site", "base"]
    for adapter in ("latest", ["latest", "base"], None, ""):  # clients send the whole list, or nothing
        assert task.adapter_name({"adapter": adapter}) == "site"
    assert task.adapter_name({"adapter": "base"}) == "base"
    with pytest.raises(HTTPException, match="expected one of latest, site, base"):
        task.adapter_name({"adapter": "other"})


def volume(path: Path, shape: tuple[int, ...], keep: int | None = None) -> str:
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random(shape).astype(np.float32), np.eye(4)), path)
    path.write_bytes(path.read_bytes()[:keep])
    return str(path)


def test_an_image_that_cannot_be_segmented_is_refused_with_the_reason(task: AdapterInfer, tmp_path: Path) -> None:
    text = tmp_path / "text.nii.gz"
    text.write_text("no image")
    wrong = {
        volume(tmp_path / "cut.nii.gz", (36, 36, 36), 5000): "cut.nii.gz: cannot be read as an image of this model",
        volume(tmp_path / "empty.nii.gz", (36, 36, 36), 0): "empty.nii.gz: cannot be read",
        volume(
            tmp_path / "series.nii.gz", (36, 36, 36, 4)
        ): "series.nii.gz: cannot be read .*expected in_channels=1, got 4",
        str(text): "text.nii.gz: cannot be read",
    }
    for image, reason in wrong.items():
        with pytest.raises(HTTPException, match=reason) as caught:
            task({"image": image, "device": "cpu"})
        assert caught.value.status_code == 422
        assert "\n" not in caught.value.detail
    file, result = task({"image": volume(tmp_path / "whole.nii.gz", (36, 36, 36)), "device": "cpu"})
    assert (Path(file).is_file(), result["adapter"]) == (True, "base")


@pytest.mark.parametrize("wrong", [{"device": "$exit(1)"}, {"skip_writer": True}, {"result_extension": "/../x.nii"}])
def test_a_wrong_request_is_refused_before_anything_is_read(task: AdapterInfer, wrong: dict[str, object]) -> None:
    with pytest.raises(HTTPException) as caught:
        task({"image": "no_such_file"} | wrong)
    assert caught.value.status_code == 400


def test_an_adapter_that_cannot_be_used_is_said(task: AdapterInfer, add: Callable[..., torch.Tensor]) -> None:
    base = computed(base_of(task.adapters.folder.parent))
    add("site", APLA(), 1)
    file = task.adapters.current("site")
    record = safe_open(file, "pt").metadata()["monai_essa"].replace('"APLA"', '"Unknown"')
    save_file(load_file(file), file, metadata={"monai_essa": record})  # an adapter by its header
    for _ in range(2):
        with pytest.raises(HTTPException, match="the adapter cannot be used") as caught:
            with task.network_with("site", "cpu"):
                pass
        assert caught.value.status_code == 409
    with task.network_with("base", "cpu") as network:
        assert torch.equal(computed(network), base)
