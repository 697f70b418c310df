# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Several adapters on one network: each computes what it computes alone, and the base stays the base."""

from __future__ import annotations

import copy
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import UNETR, SegResNetDS, ViT

from monai_essa import (
    active_adapter,
    adapt,
    adapter_names,
    add_adapter,
    disable_adapter,
    lean,
    load_adapter,
    merge,
    remove_adapter,
    save_adapter,
    set_adapter,
)
from monai_essa.adapters.adapted import adaptation_of, is_adapted
from monai_essa.methods import APLA, SSF, VPT, BitFit, FullTuning, LoRA, NormTuning
from tests.test_contract import METHODS, NETWORKS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SMALL = ("vit-3d", "segresnet-2d", "unet-affine-2d")  # a network of each kind; a method is tried on the first that fits


def vit(seed: int = 0, **changes) -> ViT:
    torch.manual_seed(seed)
    return ViT(1, 16, 8, **({"hidden_size": 24, "mlp_dim": 48, "num_layers": 2, "num_heads": 4} | changes)).eval()


def images() -> torch.Tensor:
    return torch.rand(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))


def output_of(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        output = network(x)
    return output[0] if isinstance(output, tuple) else output


def moved(network: nn.Module, seed: int = 1) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def file_of(base: nn.Module, method, path: Path, seed: int = 1, **options) -> Path:
    return save_adapter(moved(adapt(copy.deepcopy(base), method, **options), seed), path)


def hooks_of(network: nn.Module) -> list[int]:
    return [
        len(value)
        for module in network.modules()
        for name, value in vars(module).items()
        if name.endswith("_hooks") and isinstance(value, (dict, OrderedDict))
    ]


def everything(network: nn.Module) -> list:
    """All that a refused call must leave alone; tensors by value and storage."""
    tensors = network.state_dict(keep_vars=True)
    return [
        [(id(module), set(vars(module)), module.training) for module in network.modules()],
        [(name, id(tensor), tensor.data_ptr(), tensor.detach().numpy().tobytes()) for name, tensor in tensors.items()],
        [(name, parameter.requires_grad, dict(vars(parameter))) for name, parameter in network.named_parameters()],
        hooks_of(network),
        adapter_names(network),
    ]


@pytest.mark.parametrize("name", METHODS)
def test_each_adapter_computes_what_it_computes_alone(name, tmp_path):
    fitting = next(network for network in SMALL if re.search(METHODS[name].fits, network))
    torch.manual_seed(0)
    make, shape = NETWORKS[fitting]
    base, x, first, second = make().eval(), torch.rand(shape), tmp_path / "first", tmp_path / "second"
    file_of(base, METHODS[name].method, first)
    file_of(base, SSF(), second, seed=2)
    alone = {path: load_adapter(copy.deepcopy(base), path) for path in (first, second)}
    plain, net = copy.deepcopy(base), copy.deepcopy(base)
    add_adapter(add_adapter(net, "first", first), "second", second)
    assert (adapter_names(net), active_adapter(net)) == (("first", "second"), "first")
    for path in (first, second, first, second):
        assert set_adapter(net, path.name) is net and active_adapter(net) == path.name
        assert torch.equal(output_of(net, x), output_of(alone[path], x))
        assert list(net.state_dict()) == list(alone[path].state_dict())
        assert [p.requires_grad for p in net.parameters()] == [p.requires_grad for p in alone[path].parameters()]
        assert hooks_of(net) == hooks_of(alone[path])
        assert save_adapter(net, tmp_path / "again").read_bytes() == save_adapter(alone[path], path).read_bytes()
        with disable_adapter(net):
            assert torch.equal(output_of(net, x), output_of(plain, x))
    remove_adapter(remove_adapter(net, "first"), "second")
    assert torch.equal(output_of(net, x), output_of(plain, x)) and not is_adapted(net)
    assert [(name, type(module), set(vars(module))) for name, module in net.named_modules()] == [
        (name, type(module), set(vars(module))) for name, module in plain.named_modules()
    ]
    assert hooks_of(net) == hooks_of(plain) and list(net.state_dict()) == list(plain.state_dict())
    assert [(p.requires_grad, vars(p)) for p in net.parameters()] == [(True, {})] * len(list(plain.parameters()))


@dataclass
class Site:
    """An adapter that is trained by itself, or on a network that it shares."""

    name: str
    network: nn.Module

    def __post_init__(self):
        set_adapter(self.network, self.name)
        self.optimizer = torch.optim.AdamW([p for p in self.network.parameters() if p.requires_grad], lr=0.01)

    def step(self, x: torch.Tensor) -> None:
        set_adapter(self.network, self.name)
        self.network(x)[0].square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


@pytest.mark.parametrize("methods", [(LoRA(rank=2), APLA(columns=3)), (FullTuning(), BitFit()), (APLA(), VPT(2))])
def test_training_in_turns_is_training_apart_bit_for_bit(methods):
    torch.manual_seed(0)
    shared = vit()
    for name, method in zip("ab", methods, strict=True):
        add_adapter(shared, name, method)
    apart = {name: copy.deepcopy(shared) for name in "ab"}
    together, alone = ([Site(name, net[name]) for name in "ab"] for net in ({"a": shared, "b": shared}, apart))
    for turn in range(3):
        x = images() + turn
        for sites in (together, alone):
            for site in sites:
                site.step(x)
    for name in "ab":
        set_adapter(shared, name)
        state = apart[name].state_dict()
        assert all(torch.equal(tensor, state[key]) for key, tensor in shared.state_dict().items())


def test_gradients_of_one_adapter_do_not_reach_another():
    net = add_adapter(add_adapter(vit(), "a", BitFit()), "b", BitFit())
    net(images())[0].mean().backward()
    assert net.norm.bias.grad is not None
    assert set_adapter(net, "b").norm.bias.grad is None
    assert set_adapter(net, "a").norm.bias.grad is None


def test_an_adapter_without_a_name_is_the_default_one(tmp_path):
    file = file_of(vit(), LoRA(rank=2), tmp_path / "site")
    for net in (adapt(vit(), APLA()), load_adapter(vit(), file)):
        assert adapter_names(net) == ("default",) == (active_adapter(net),)
        assert adapter_names(add_adapter(net, "site", file)) == ("default", "site")
    assert adapter_names(vit()) == ()


def test_the_network_computes_what_it_computed_before_another_was_added(tmp_path):
    net = moved(adapt(vit(), LoRA(rank=2)))
    file = file_of(vit(), FullTuning(), tmp_path / "full")
    before, expected = everything(net), output_of(net, images())
    add_adapter(add_adapter(net, "full", file), "new", BitFit())
    assert everything(net)[:-1] == before[:-1] and torch.equal(output_of(net, images()), expected)


def test_only_the_tensors_of_an_adapter_are_kept(tmp_path):
    net = add_adapter(adapt(vit(), APLA(columns=3)), "lora", LoRA(rank=2))
    frozen = {name: tensor.data_ptr() for name, tensor in net.state_dict().items() if not name.endswith("rows")}
    kept = adaptation_of(net).adapters["lora"]
    assert sum(tensor.numel() for tensor in kept.tensors.values()) == 2 * 2 * 2 * 2 * 24
    assert not {tensor.data_ptr() for tensor in kept.tensors.values()} & set(frozen.values())
    set_adapter(net, "lora")
    assert all(net.state_dict()[name].data_ptr() == place for name, place in frozen.items() if name.endswith("weight"))


def test_a_state_dict_says_nothing_of_inactive_adapters_and_resumes_the_active_one():
    net = add_adapter(moved(adapt(vit(), APLA(columns=3))), "lora", LoRA(rank=2))
    alone = moved(adapt(vit(), APLA(columns=3)))
    assert list(net.state_dict()) == list(alone.state_dict())
    expected = output_of(set_adapter(net, "lora"), images())
    set_adapter(net, "default").load_state_dict(copy.deepcopy(alone.state_dict()))
    assert torch.equal(output_of(net, images()), output_of(alone, images()))
    assert torch.equal(output_of(set_adapter(net, "lora"), images()), expected)


def test_merge_folds_the_active_adapter_in_and_forgets_the_others(tmp_path):
    a, b = (file_of(vit(), method, tmp_path / type(method).__name__) for method in (APLA(), LoRA(rank=2)))
    net = set_adapter(add_adapter(add_adapter(vit(), "a", a), "b", b), "b")
    plain, alone = merge(net), merge(load_adapter(vit(), b))
    assert all(torch.equal(tensor, alone.state_dict()[name]) for name, tensor in plain.state_dict().items())
    assert list(plain.state_dict()) == list(alone.state_dict()) and not is_adapted(plain)
    assert torch.equal(output_of(set_adapter(net, "a"), images()), output_of(load_adapter(vit(), a), images()))


def test_a_copy_has_adapters_of_its_own():
    net = add_adapter(adapt(vit(), LoRA(rank=2)), "bias", BitFit())
    twin = copy.deepcopy(net)
    for name in ("bias", "default"):
        moved(set_adapter(twin, name))
        set_adapter(net, name)
        assert torch.equal(output_of(net, images()), output_of(vit(), images()))
        assert not torch.equal(output_of(twin, images()), output_of(net, images()))


def test_load_adapter_swaps_the_active_one_and_leaves_the_others(tmp_path):
    one, two = (file_of(vit(), LoRA(rank=2), tmp_path / str(seed), seed) for seed in (1, 2))
    net = add_adapter(add_adapter(vit(), "a", one), "b", one)
    load_adapter(net, two)
    assert torch.equal(output_of(net, images()), output_of(load_adapter(vit(), two), images()))
    assert torch.equal(output_of(set_adapter(net, "b"), images()), output_of(load_adapter(vit(), one), images()))


def test_inactive_adapters_follow_the_network_to_another_number_format(tmp_path):
    net = add_adapter(adapt(vit(), APLA(columns=3)), "lora", file_of(vit(), LoRA(rank=2), tmp_path / "lora"))
    set_adapter(net.double(), "lora")
    assert {tensor.dtype for tensor in net.state_dict().values()} == {torch.float64}
    alone = load_adapter(vit(), tmp_path / "lora").double()
    assert torch.equal(output_of(net, images().double()), output_of(alone, images().double()))
    set_adapter(net.float(), "default")
    assert {tensor.dtype for tensor in net.state_dict().values()} == {torch.float32, torch.int64}


def test_a_number_format_that_the_user_chose_for_an_adapter_stays():
    net = add_adapter(adapt(vit().bfloat16(), LoRA(rank=2)), "b", BitFit())
    learning = [parameter for parameter in net.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.data = parameter.data.float()
    set_adapter(set_adapter(net, "b"), "default")
    assert [p for p in net.parameters() if p.requires_grad] == learning
    assert {parameter.dtype for parameter in learning} == {torch.float32}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_inactive_adapters_follow_the_network_to_another_device():
    net = add_adapter(adapt(vit(), APLA(columns=3)), "lora", LoRA(rank=2)).cuda()
    for name in ("lora", "default"):
        assert {tensor.device.type for tensor in set_adapter(net, name).state_dict().values()} == {"cuda"}


def test_what_was_frozen_by_hand_stays_frozen():
    net = add_adapter(adapt(vit(), BitFit()), "lora", LoRA(rank=2))
    net.norm.bias.requires_grad_(False)
    set_adapter(set_adapter(net, "lora"), "default")
    assert not net.norm.bias.requires_grad and net.blocks[0].norm1.bias.requires_grad


def test_switching_draws_no_random_numbers_and_keeps_the_mode():
    net = add_adapter(adapt(vit().train(), LoRA(rank=2, dropout=0.5)), "vpt", VPT(tokens=2))
    net.blocks[1].eval()
    state = torch.get_rng_state()
    set_adapter(set_adapter(net, "vpt"), "default")
    assert torch.equal(torch.get_rng_state(), state)
    for block, training in zip(net.blocks, (True, False), strict=True):
        layers = [module for module in block.modules() if not isinstance(module, nn.ParameterDict)]
        assert {module.training for module in layers} == {training}


def test_a_batch_norm_that_one_adapter_freezes_and_another_trains():
    torch.manual_seed(0)
    net = adapt(SegResNetDS(2, 8, blocks_down=(1, 1)).train(), SSF())
    add_adapter(net, "norms", NormTuning())
    x, norm = torch.rand(2, 1, 16, 16), "encoder.layers.0.blocks.0.norm1"
    net(x)
    assert not net.get_submodule(norm).training and not net.get_submodule(norm).running_mean.any()
    set_adapter(net, "norms")(x)
    assert net.get_submodule(norm).training and net.get_submodule(norm).running_mean.any()
    learned = net.get_submodule(norm).running_mean.clone()
    assert not set_adapter(net, "default").get_submodule(norm).running_mean.any()
    assert torch.equal(set_adapter(net, "norms").get_submodule(norm).running_mean, learned)


def test_a_unetr_takes_the_adapter_of_a_vit_beside_one_with_a_decoder(tmp_path):
    torch.manual_seed(0)
    net = UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2)
    encoder = ViT(1, 32, 16, 24, 48, 12, 4, spatial_dims=2)
    encoder.load_state_dict(net.vit.state_dict())
    before = net.out.conv.conv.bias.clone()
    small = save_adapter(moved(adapt(encoder, APLA(columns=3))), tmp_path / "encoder")
    add_adapter(moved(adapt(net, LoRA(rank=2), also_train=[r"out\..*"])), "encoder", small)
    assert torch.equal(set_adapter(net, "encoder").out.conv.conv.bias, before)
    x = torch.rand(1, 1, 32, 32)
    assert torch.equal(output_of(net.vit.eval(), x), output_of(encoder.eval(), x))


def test_another_encoder_makes_adapters_of_the_earlier_one_unusable_and_the_same_encoder_does_not():
    net = add_adapter(adapt(vit(), APLA(columns=3)), "lora", LoRA(rank=2))
    net.load_state_dict(vit().state_dict(), strict=False)
    with pytest.raises(RuntimeError, match="size mismatch"):
        net.load_state_dict({"norm.weight": torch.zeros(3)}, strict=False)
    set_adapter(set_adapter(net, "lora"), "default")
    net.load_state_dict(vit(seed=5).state_dict(), strict=False)
    before = everything(net)
    with pytest.raises(
        ValueError, match="^adapter 'lora' belongs to the encoder that load_state_dict has replaced[^\n]*$"
    ):
        set_adapter(net, "lora")
    assert everything(net) == before
    set_adapter(add_adapter(remove_adapter(net, "lora"), "lora", LoRA(rank=2)), "lora")
    assert torch.equal(output_of(net, images()), output_of(vit(seed=5), images()))


def refused(net: nn.Module, call, line: str) -> None:
    before = everything(net)
    with pytest.raises(ValueError, match=f"^[^\n]*{line}[^\n]*$"):
        call()
    assert everything(net) == before


def test_names_that_are_unknown_taken_or_in_use_are_one_line():
    net = add_adapter(adapt(vit(), APLA(columns=3)), "b", LoRA(rank=2))
    for call in (set_adapter, remove_adapter):
        refused(net, lambda call=call: call(net, "c"), "ViT has no adapter 'c', only 'default', 'b'")
    refused(net, lambda: add_adapter(net, "b", BitFit()), "has an adapter 'b' already; choose another name")
    refused(net, lambda: add_adapter(net, "", BitFit()), "expected the name of an adapter, got ''")
    refused(net, lambda: remove_adapter(net, "default"), "adapter 'default' is active; call set_adapter")
    for call in (set_adapter, remove_adapter):
        with pytest.raises(ValueError, match="ViT is not adapted"):
            call(vit(), "b")


@pytest.mark.parametrize("adapted", [False, True])
def test_a_file_or_method_that_does_not_fit_changes_nothing(adapted, tmp_path):
    net = moved(adapt(vit(), FullTuning())) if adapted else vit()
    other_base = file_of(vit(seed=3), LoRA(rank=2), tmp_path / "other_base")
    other_depth = file_of(vit(num_layers=3), LoRA(rank=2), tmp_path / "other_depth")
    damaged = file_of(vit(), BitFit(), tmp_path / "damaged")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x7f")
    for file, line in ((other_base, "another base"), (other_depth, "on one side only"), (damaged, "checksum")):
        refused(net, lambda file=file: add_adapter(net, "site", file), line)
    refused(net, lambda: add_adapter(net, "site", LoRA(targets=("conv",)), also_train=["nothing"]), "matches no")
    with pytest.raises(FileNotFoundError):
        add_adapter(net, "site", tmp_path / "absent")


class Once(LoRA):
    """A method that can be placed twice, on the twin and on the network, and then no more."""

    placed = 0

    def inject(self, network):
        learning = super().inject(network)
        Once.placed += 1
        if Once.placed > 1:
            raise RuntimeError("no memory left")
        return learning


def test_a_switch_that_fails_leaves_the_adapter_that_was_active():
    net = add_adapter(moved(adapt(vit(), BitFit())), "once", Once(rank=2))
    before, expected = everything(net), output_of(net, images())
    with pytest.raises(RuntimeError, match="no memory left"):
        set_adapter(net, "once")
    assert everything(net) == before and torch.equal(output_of(net, images()), expected)


def test_a_lean_network_and_one_that_is_disabled_are_not_switched():
    net = add_adapter(adapt(vit(), APLA(columns=3)), "b", BitFit())
    with disable_adapter(net):
        for call in (
            lambda: set_adapter(net, "b"),
            lambda: remove_adapter(net, "b"),
            lambda: add_adapter(net, "c", SSF()),
        ):
            with pytest.raises(ValueError, match="ViT is its base within disable_adapter; leave the block"):
                call()
    lean(net, frozen_dtype=torch.bfloat16)
    for call, step in (
        (lambda: set_adapter(net, "b"), "set_adapter"),
        (lambda: add_adapter(net, "c", SSF()), "add_adapter"),
    ):
        with pytest.raises(ValueError, match=f"ViT is lean, and lean comes after {step}"):
            call()
    x = images()
    assert torch.equal(output_of(set_adapter(lean(net, off=True), "b"), x), output_of(vit(), x))


def test_a_compiled_network_is_switched_and_a_distributed_one_is_refused(tmp_path):
    file = file_of(vit(), LoRA(rank=2), tmp_path / "lora")
    net = torch.compile(add_adapter(adapt(vit(), APLA(columns=3)), "lora", file), backend="eager")
    assert torch.equal(output_of(net, images()), output_of(vit(), images()))
    assert set_adapter(net, "lora") is net
    assert torch.equal(output_of(net, images()), output_of(load_adapter(vit(), file), images()))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(add_adapter(adapt(vit(), APLA(columns=3)), "lora", file))
        with pytest.raises(ValueError, match="call set_adapter on the network before it is wrapped"):
            set_adapter(wrapped, "lora")
    finally:
        torch.distributed.destroy_process_group()
