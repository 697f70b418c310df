# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The cost of one training step by deterministic meters: bytes kept, bytes of gradients and optimizer, FLOPs."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from monai_essa.cost.memory import LiveBytes

__all__ = ["RealCounts", "StepCost", "flop_counter", "fused_adamw", "step_cost"]

Optimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
_ATEN = torch.ops.aten


@dataclass(frozen=True)
class StepCost:
    """The cost of a training step: forward, backward and optimizer, as the second and all later steps are.

    Attributes:
        trainable: number of parameters that learn, the objective's own head with them.
        frozen: number of parameters that do not.
        weight_bytes: parameters and buffers.
        saved_bytes: what the forward pass leaves behind for the backward pass.
        gradient_bytes: gradients of the trainable parameters.
        optimizer_bytes: state of the optimizer.
        peak_bytes: the most that is alive at once: weights, batch, saved tensors, temporaries, gradients and state.
        forward_flops: floating point operations of the forward pass (a multiply and an add are two).
        backward_flops: of the backward pass, recomputation included.
    """

    trainable: int
    frozen: int
    weight_bytes: int
    saved_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    peak_bytes: int
    forward_flops: int
    backward_flops: int

    @property
    def flops(self) -> int:
        """Operations of a step, forward and backward."""
        return self.forward_flops + self.backward_flops


def fused_adamw(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer of our bundles: AdamW in its fused form, which has no temporaries.

    Example:
        >>> fused_adamw([nn.Parameter(torch.zeros(3))]).defaults["fused"]
        True
    """
    return torch.optim.AdamW(parameters, fused=True)


def step_cost(
    objective: nn.Module, *inputs: Any, optimizer: Optimizer = fused_adamw, autocast: torch.dtype | None = None
) -> StepCost:
    """Measure a training step on fake tensors: nothing is computed and nothing allocated, so any batch fits.

    The objective is left as it is. It is measured in training mode, on the device that its parameters name.

    Args:
        objective: a pretext objective or :class:`monai_essa.engines.Supervised`: returns a dictionary with ``loss``.
        inputs: what it is called with: tensors, real or on the meta device, alone or in lists and dictionaries. Only
            their shape and type count: ``torch.empty(64, 1, 96, 96, 96, device="meta")`` costs nothing.
        optimizer: makes the optimizer of the parameters that learn.
        autocast: number format of the forward pass; None computes in that of the weights.

    Returns:
        The cost. It is the same each time, to the byte.

    Raises:
        ValueError: if nothing learns.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa import adapt
        >>> from monai_essa.methods import APLA
        >>> from monai_essa.pretext import SimMIM
        >>> net = adapt(ViT(1, 32, 8, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), APLA())
        >>> cost = step_cost(SimMIM(encoder=net), torch.empty(8, 1, 32, 32, 32, device="meta"))
        >>> cost.trainable < cost.frozen, cost.peak_bytes > cost.weight_bytes
        (True, True)
    """
    device = next(objective.parameters()).device
    mode = FakeTensorMode(allow_non_fake_inputs=True)  # a module may make a constant in its forward pass
    fake = _fake_copy(objective, mode).train()
    with torch.random.fork_rng(devices=[]), mode, RealCounts():
        batch = tree_map_only(
            torch.Tensor, lambda real: torch.empty(real.shape, dtype=real.dtype, device=device), inputs
        )
        return _measure(fake, batch, optimizer, autocast)


def flop_counter() -> FlopCounterMode:
    """Return torch's FLOP counter, with the attention kernel of the CPU counted as those of CUDA are.

    Example:
        >>> query = torch.zeros(1, 2, 16, 8)
        >>> with flop_counter() as counter:
        ...     attended = torch.nn.functional.scaled_dot_product_attention(query, query, query)
        >>> counter.get_total_flops() == 2 * 2 * (2 * 16 * 16 * 8)
        True
    """
    formulas: dict[Any, Callable[..., int]] = {
        _ATEN._scaled_dot_product_flash_attention_for_cpu: _forward,
        _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
    }
    return FlopCounterMode(display=False, custom_mapping=formulas)


class RealCounts(TorchFunctionMode):
    """Compute ``torch.arange`` of plain numbers for real while everything else is fake.

    Example:
        >>> from torch._subclasses.fake_tensor import FakeTensorMode
        >>> with FakeTensorMode(allow_non_fake_inputs=True), RealCounts():
        ...     torch.arange(2, 5).tolist()
        [2, 3, 4]
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation."""
        if func is not torch.arange or kwargs:  # an arange on a device is data, and belongs to the fake tensors
            return func(*args, **(kwargs or {}))
        with _disable_current_modes():
            return func(*args, **(kwargs or {}))


def _measure(
    objective: nn.Module, inputs: tuple[Any, ...], optimizer: Optimizer, autocast: torch.dtype | None
) -> StepCost:
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("nothing learns in this objective; call adapt(network, method) first")
    owner = optimizer(trained)
    tensors = [*objective.parameters(), *objective.buffers(), *_tensors(inputs)]
    device = next(objective.parameters()).device

    def forward() -> torch.Tensor:
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            return objective(*inputs)["loss"]

    with LiveBytes(tensors) as memory:
        forward().backward()  # the first step: the optimizer's state appears
        owner.step()
        owner.zero_grad(set_to_none=True)

        memory.restart_peak()
        before = memory.now
        loss = forward()
        saved = memory.now - before
        loss.backward()
        owner.step()
    with flop_counter() as counter:  # apart, because it holds on to tensors
        loss = forward()
        forward_flops = counter.get_total_flops()
        loss.backward()

    return StepCost(
        trainable=sum(parameter.numel() for parameter in trained),
        frozen=sum(parameter.numel() for parameter in objective.parameters() if not parameter.requires_grad),
        weight_bytes=_bytes(itertools.chain(objective.parameters(), objective.buffers())),
        saved_bytes=saved,
        gradient_bytes=_bytes(parameter.grad for parameter in trained if parameter.grad is not None),
        optimizer_bytes=_bytes(_tensors(list(owner.state.values()))),
        peak_bytes=memory.peak,
        forward_flops=forward_flops,
        backward_flops=counter.get_total_flops() - forward_flops,
    )


def _fake_copy(objective: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Copy a module with fake tensors in place of its own; tensors that share a storage go on sharing it."""
    memo: dict[int, Any] = {}
    for module in objective.modules():
        for own in (module._parameters, module._buffers, vars(module)):
            for tensor in own.values():
                if isinstance(tensor, torch.Tensor):
                    memo[id(tensor)] = mode.from_tensor(tensor)
    return copy.deepcopy(objective, memo)


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Count the bytes of storages, each once."""
    return sum(storage.nbytes() for storage in {tensor.untyped_storage() for tensor in tensors})


def _forward(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return int(sdpa_flop_count(query, key, value))


def _backward(
    grad: Sequence[int],
    query: Sequence[int],
    key: Sequence[int],
    value: Sequence[int],
    *_: Any,
    out_shape: Any = None,
    **__: Any,
) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))
