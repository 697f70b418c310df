# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""adapt, merge, disable_adapter and summary beyond the contract of methods and networks."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import UNETR, SegResNetDS, ViT

from monai_essa import adapt, disable_adapter, load_adapter, merge, save_adapter, summary
from monai_essa.adapters.adapted import adaptation_of, is_adapted
from monai_essa.adapters.file import read_adapter
from monai_essa.anatomy import classification_network
from monai_essa.methods import APLA, SSF, VPT, AdaptFormer, BitFit, FullTuning, HeadOnly, LoRA, NormTuning


def vit() -> ViT:
    torch.manual_seed(0)
    return ViT(1, 32, 16, 24, 48, 2, 4)


def vit_2d(seed: int = 0) -> ViT:
    torch.manual_seed(seed)
    return ViT(1, 32, 16, 24, 48, 12, 4, spatial_dims=2)


def moved(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def batch_norm_unetr() -> UNETR:
    torch.manual_seed(0)
    return UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2, norm_name="batch")


def test_forward_in_train_mode_without_the_adapter_leaves_the_base_as_it_was():
    torch.manual_seed(0)
    net = adapt(SegResNetDS(2, 8, blocks_down=(1, 1)).train(), NormTuning())
    images = torch.rand(2, 1, 16, 16)
    for _ in range(2):
        net(images)
    learned = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with disable_adapter(net):
        net(images)
    with disable_adapter(net):
        statistics = [tensor for name, tensor in net.state_dict().items() if name.endswith("running_mean")]
        assert len(statistics) > 2 and not any(tensor.any() for tensor in statistics[:4])  # those of a fresh network
    assert all(torch.equal(tensor, learned[name]) for name, tensor in net.state_dict().items())


def test_batch_norm_with_an_adapter_beside_it_is_frozen_and_no_part_of_the_file(tmp_path):
    net = adapt(SegResNetDS(2, 8, blocks_down=(1, 1)).train(), SSF())
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net(torch.rand(2, 1, 16, 16))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    held = read_adapter(save_adapter(net, tmp_path / "ssf.safetensors")).tensors
    assert held and all(".ssf_" in name for name in held)


class Refusing(LoRA):
    """A method that finds out late that it cannot be placed."""

    def inject(self, network):
        super().inject(network)
        raise ValueError("cannot be placed after all")


@pytest.mark.parametrize("first", [APLA(columns=2), VPT(tokens=2, deep=False), AdaptFormer(bottleneck=2)])
def test_refused_method_leaves_nothing_of_the_ones_before_it(first):
    net = vit()
    modules, images = list(net.modules()), torch.rand(1, 1, 32, 32, 32)
    attributes = [dict(vars(part)) for part in (*modules, *net.parameters())]
    with pytest.raises(ValueError, match="after all"):
        adapt(net, [first, Refusing(rank=2, targets=("q",))])
    assert list(net.modules()) == modules
    assert [dict(vars(part)) for part in (*modules, *net.parameters())] == attributes
    assert not net._forward_hooks
    adapt(net, first)(images)


METHODS = [APLA(), APLA(columns=5), LoRA(rank=2), AdaptFormer(bottleneck=2, dropout=0.0), BitFit(), FullTuning()]


@pytest.mark.parametrize("method", METHODS)
def test_a_network_around_an_adapted_encoder_is_refused_and_left_alone(method):
    net = classification_network(moved(adapt(vit(), method)), 2)
    images = torch.rand(1, 1, 32, 32, 32)
    before, learning = net(images), [p.requires_grad for p in net.parameters()]
    for again in (method, HeadOnly(), LoRA(rank=2)):
        with pytest.raises(ValueError, match=r"^'encoder' of Sequential is a part of an adapted [^\n]*merge\(\)"):
            adapt(net, again, ["head.*"])
    assert torch.equal(net(images), before) and [p.requires_grad for p in net.parameters()] == learning


@pytest.mark.parametrize("method", METHODS)
def test_two_networks_that_share_an_encoder_are_not_both_adapted(method, tmp_path):
    unetr = UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2)
    classifier = classification_network(unetr, 2)
    file = save_adapter(adapt(classification_network(copy.deepcopy(unetr), 2), method), tmp_path / "a.safetensors")
    adapt(unetr, method)
    for other in (classifier, copy.deepcopy((unetr, classifier))[1], unetr.vit):
        with pytest.raises(ValueError, match="is a part of an adapted network"):
            adapt(other, method)
    with pytest.raises(ValueError, match="a.safetensors"):
        load_adapter(classifier, file)
    assert not is_adapted(classifier)


def test_a_tensor_that_an_adapted_network_holds_too_is_refused():
    first, second = vit(), vit()
    second.norm.weight = first.norm.weight
    adapt(first, FullTuning())
    with pytest.raises(ValueError, match=r"'norm\.weight' of ViT is a part of an adapted network"):
        adapt(second, FullTuning())


def test_parameters_out_of_a_file_are_no_part_of_the_network_that_they_were_saved_from(tmp_path):
    torch.save(dict(adapt(vit(), FullTuning()).named_parameters()), tmp_path / "parameters.pt")
    for _ in range(3):  # the new parameters may get the addresses of those of the network before
        fresh = vit()
        fresh.load_state_dict(torch.load(tmp_path / "parameters.pt", weights_only=True), strict=False, assign=True)
        assert adapt(fresh, FullTuning()) is fresh


@pytest.mark.parametrize("method", [APLA(columns=5), LoRA(rank=2), BitFit()])
def test_the_merged_network_and_its_encoder_bear_no_mark(method):
    plain = merge(adapt(classification_network(vit(), 2), method))
    assert not any("monai_essa" in name for part in (*plain.modules(), *plain.parameters()) for name in vars(part))
    adapt(plain.encoder, method)


def test_a_merged_encoder_becomes_a_classifier():
    encoder = moved(adapt(vit(), APLA(columns=5)))
    images = torch.rand(1, 1, 32, 32, 32)
    net = classification_network(merge(encoder), 2)
    before = net(images)
    assert torch.equal(adapt(net, APLA(columns=5), ["head.*"])(images), before)


def test_second_adapt_is_refused():
    with pytest.raises(ValueError, match="ViT is adapted already"):
        adapt(adapt(vit(), APLA()), LoRA())


@pytest.mark.parametrize("call", [merge, summary])
def test_plain_network_is_refused(call):
    with pytest.raises(ValueError, match="ViT is not adapted; call adapt"):
        call(vit())


def test_frozen_batch_norm_keeps_its_statistics_and_a_trained_one_does_not():
    net = adapt(batch_norm_unetr(), APLA(), also_train=["decoder2.*"]).train()
    before = copy.deepcopy(net.state_dict())
    net(torch.randn(2, 1, 32, 32)).mean().backward()
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("decoder2.") and "running" in name or "num_batches" in name for name in moved)


def test_merge_lets_batch_norm_train_again():
    net = merge(adapt(batch_norm_unetr(), APLA())).train()
    before = net.encoder1.layer.norm1.running_mean.clone()
    net(torch.randn(2, 1, 32, 32))
    assert not torch.equal(net.encoder1.layer.norm1.running_mean, before)


@pytest.mark.parametrize("method", [APLA(), APLA(columns=2), LoRA(rank=2), SSF(), FullTuning()])
def test_merge_gives_each_tensor_the_requires_grad_that_it_had(method):
    net = vit()
    for parameter in list(net.parameters())[::2]:
        parameter.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in net.named_parameters()}
    assert set(before.values()) == {True, False}
    adapt(net, method)
    learning = {name: parameter.requires_grad for name, parameter in net.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in merge(net).named_parameters()} == before
    assert {name: parameter.requires_grad for name, parameter in net.named_parameters()} == learning


def test_merged_network_can_be_adapted_again():
    net = adapt(vit(), APLA(columns=2))
    with torch.no_grad():
        net.blocks[0].attn.out_proj.rows.add_(1)
    again = adapt(merge(net), LoRA(rank=2))
    images = torch.rand(1, 1, 32, 32, 32)
    torch.testing.assert_close(again(images)[0], net(images)[0])


def test_merged_network_forgets_the_hooks():
    plain = merge(adapt(vit(), APLA()))
    plain.load_state_dict(plain.state_dict())
    assert not hasattr(plain, "_monai_essa_adaptation")


def test_disable_restores_after_an_error():
    net = adapt(vit(), FullTuning())
    with torch.no_grad():
        net.norm.weight.fill_(3)
    with pytest.raises(RuntimeError, match="inside"), disable_adapter(net):
        assert net.norm.weight[0] == 1
        raise RuntimeError("inside")
    assert net.norm.weight[0] == 3


def test_apla_of_a_vit_b_has_the_sizes_of_the_paper():
    with torch.device("meta"):
        net = ViT(1, 96, 16)
    # arXiv 2503.11335, ViT-B: 7.09 M in W_O; 8 columns of 12 blocks are 73,824.
    with torch.device("meta"):
        assert sum(net.get_parameter(name).numel() for name in APLA().claims(net)) == 7_087_104
    assert 12 * 8 * (768 + 1) == 73_824


TRAINED_IN_PLACE = [FullTuning(), BitFit(), NormTuning(), APLA(), LoRA(rank=2)]


@pytest.mark.parametrize("method", TRAINED_IN_PLACE)
def test_a_plain_state_dict_is_the_new_base(method):
    net, new = moved(adapt(vit(), method)), vit()
    torch.manual_seed(5)
    new.load_state_dict({name: torch.randn_like(tensor) for name, tensor in new.state_dict().items()})
    images = torch.rand(1, 1, 32, 32, 32)
    net.load_state_dict(new.state_dict(), strict=False)
    with disable_adapter(net):
        assert torch.equal(net(images)[0], new(images)[0])


def test_a_plain_state_dict_of_the_encoder_alone_is_the_new_base_of_a_full_tuning():
    net, new = adapt(UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2), FullTuning()), vit_2d(seed=7)
    net.load_state_dict({f"vit.{name}": tensor for name, tensor in new.state_dict().items()}, strict=False)
    with disable_adapter(net):
        assert all(torch.equal(net.vit.state_dict()[name], tensor) for name, tensor in new.state_dict().items())


@pytest.mark.parametrize("method", TRAINED_IN_PLACE)
def test_a_checkpoint_of_the_run_is_no_new_base(method, tmp_path):
    net = adapt(vit(), method)
    images = torch.rand(1, 1, 32, 32, 32)
    with disable_adapter(net):
        base = net(images)[0]
    torch.save(moved(net).state_dict(), tmp_path / "best.pt")
    trained = net(images)[0]
    resumed = adapt(vit(), method)
    for state in (copy.deepcopy(net.state_dict()), torch.load(tmp_path / "best.pt", weights_only=True)):
        resumed.load_state_dict(state)
        assert torch.equal(resumed(images)[0], trained)
        with disable_adapter(resumed):
            assert torch.equal(resumed(images)[0], base)


def test_a_checkpoint_of_what_learned_alone_is_no_new_base():
    net = adapt(vit(), APLA())
    images = torch.rand(1, 1, 32, 32, 32)
    base = net(images)[0]
    net.load_state_dict({"blocks.0.attn.out_proj.weight": net.blocks[0].attn.out_proj.weight + 1}, strict=False)
    with disable_adapter(net):
        assert torch.equal(net(images)[0], base)


def test_the_state_dict_of_a_disabled_network_is_a_base():
    net, other = moved(adapt(vit(), FullTuning())), moved(adapt(vit(), FullTuning()))
    with disable_adapter(net):
        base = copy.deepcopy(net.state_dict())
    other.load_state_dict(base)
    with disable_adapter(other):
        assert all(torch.equal(tensor, base[name]) for name, tensor in other.state_dict().items())


def test_a_state_dict_that_does_not_fit_leaves_the_base_as_it_was():
    net = adapt(vit(), FullTuning())
    before = adaptation_of(net).base["norm.weight"].clone()
    with pytest.raises(RuntimeError, match="size mismatch"):
        net.load_state_dict({"norm.weight": torch.zeros(3)}, strict=False)
    assert torch.equal(adaptation_of(net).base["norm.weight"], before)


def test_what_learned_is_not_saved_loaded_or_merged_while_it_is_out(tmp_path):
    net = adapt(vit(), APLA(columns=3))
    file = save_adapter(net, tmp_path / "a.safetensors")
    with disable_adapter(net):
        for call in (lambda: save_adapter(net, file), lambda: load_adapter(net, file), lambda: merge(net)):
            with pytest.raises(ValueError, match="ViT is its base within disable_adapter; leave the block"):
                call()
    assert merge(load_adapter(net, file)) is not net


def compiled(net: nn.Module) -> nn.Module:
    return torch.compile(net, backend="eager")


@pytest.mark.parametrize(
    ("wrap", "adapt_first"),
    [
        (compiled, True),
        pytest.param(compiled, False, marks=pytest.mark.full),
        (nn.DataParallel, True),
        (nn.DataParallel, False),
    ],
)
def test_a_wrapped_network_is_adapted_saved_loaded_merged_and_counted(wrap, adapt_first, tmp_path):
    base = vit_2d()
    net, images = copy.deepcopy(base), torch.rand(1, 1, 32, 32)
    wrapped = wrap(adapt(net, LoRA(rank=2))) if adapt_first else adapt(wrap(net), LoRA(rank=2))
    start, expected = wrapped(images)[0], moved(net)(images)[0]
    file = save_adapter(wrapped, tmp_path / "a.safetensors")
    assert read_adapter(file).record["network"] == "ViT"
    for fresh in (copy.deepcopy(base), wrap(copy.deepcopy(base))):
        assert load_adapter(fresh, file) is fresh and torch.equal(fresh(images)[0], expected)
    assert type(merge(wrapped)) is type(base) and list(merge(wrapped).state_dict()) == list(base.state_dict())
    with disable_adapter(wrapped) as same:
        assert same is wrapped and torch.equal(wrapped(images)[0], start)
    assert torch.equal(wrapped(images)[0], expected)
    assert summary(wrapped) == summary(net)


def test_a_network_that_was_compiled_and_run_keeps_the_statistics_of_frozen_norms():
    net = batch_norm_unetr().train().requires_grad_(False)
    images, wrapped = torch.randn(2, 1, 32, 32), compiled(net)
    wrapped(images)
    adapt(wrapped, HeadOnly())  # changes nothing that a compiled network looks at, but the hooks
    before = copy.deepcopy(net.state_dict())
    wrapped.train()(images)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_part_that_is_compiled_by_itself_is_refused(tmp_path):
    net = UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2)
    stock = net.vit
    net.vit = compiled(stock)
    with pytest.raises(ValueError, match=r"^'vit' of UNETR is wrapped by OptimizedModule[^\n]*after adapt"):
        adapt(net, APLA())
    net.vit = stock
    adapt(net, APLA()).vit = compiled(stock)
    for call in (lambda: save_adapter(net, tmp_path / "a.safetensors"), lambda: merge(net), lambda: summary(net)):
        with pytest.raises(ValueError, match="'vit' of UNETR is wrapped"):
            call()


def test_distributed_data_parallel_comes_after_adapt(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="call adapt on the network before it is wrapped"):
            adapt(nn.parallel.DistributedDataParallel(vit_2d()), APLA())
        net = moved(adapt(vit_2d(), APLA(columns=3)))
        wrapped = nn.parallel.DistributedDataParallel(net)
        file = save_adapter(wrapped, tmp_path / "a.safetensors")
        images = torch.rand(1, 1, 32, 32)
        assert torch.equal(load_adapter(vit_2d(), file)(images)[0], net(images)[0])
        assert load_adapter(wrapped, file) is wrapped
    finally:
        torch.distributed.destroy_process_group()
