# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The cost of one training step by deterministic meters: bytes kept, bytes of gradients and optimizer, FLOPs.

The scratch memory of convolutions on a CPU belongs to the peak that ``monai-essa plan`` and ``monai-essa cost`` state:
with SwinUNETR and SegResNet it is 2 to 5 % of it, more than what is left unmodelled.
"""

from __future__ import annotations

import copy
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

__all__ = ["LiveBytes", "RealCounts", "StepCost", "convolution_scratch", "flop_counter", "fused_adamw", "step_cost"]

Optimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
_ATEN = torch.ops.aten
_BLOCK = 16


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
        _ATEN._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
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


class LiveBytes(TorchDispatchMode):
    """Follow the storage of every tensor from its birth to its end: a deterministic memory meter.

    Views count once, and a storage counts until the last tensor or autograd node lets go of it. Of what a kernel
    allocates and frees within one operation, the copies of CPU convolutions are counted (they are as large as the
    images); the rest is small. On fake tensors no arithmetic is done and nothing is allocated, so any size is measured
    in seconds; the numbers are the same.

    Args:
        present: tensors that exist already, such as weights and the batch.

    Attributes:
        now: bytes alive.
        peak: the most bytes that were alive at once since the start or since :meth:`restart_peak`.

    Example:
        >>> with LiveBytes() as meter:
        ...     values = torch.zeros(1000)
        ...     total = (values * 2).sum()
        >>> meter.now, meter.peak
        (4004, 8004)
    """

    def __init__(self, present: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        for tensor in present:
            self._count(tensor)

    def restart_peak(self) -> None:
        """Measure the peak from this moment on."""
        self.peak = self.now

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count the storages that it made."""
        result = func(*args, **(kwargs or {}))
        self._count_all(result)
        self.peak = max(self.peak, self.now + convolution_scratch(func, args, result))
        return result

    def _count_all(self, result: Any) -> None:
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf)

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        self._seen.add(storage)
        weakref.finalize(storage, self._drop, storage.nbytes())
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)

    def _drop(self, size: int) -> None:
        self.now -= size


def convolution_scratch(operation: Callable[..., Any], args: tuple[Any, ...], result: Any) -> int:
    """Count the bytes that a convolution on the CPU needs at its worst moment beside its inputs and results.

    The kernels are oneDNN's for AVX-512; with a smaller instruction set they need as much or less.

    Args:
        operation: an operation that just ran; any other than a convolution needs nothing.
        args: its arguments.
        result: its output.

    Example:
        >>> images, kernel = torch.zeros(1, 16, 8, 8, 8), torch.zeros(16, 16, 1, 1, 1)
        >>> args = (images, kernel, None, [1] * 3, [0] * 3, [1] * 3, False, [0] * 3, 1)
        >>> convolution_scratch(_ATEN.convolution.default, args, _ATEN.convolution(*args))
        33792
        >>> images.nbytes + kernel.nbytes
        33792
    """
    if operation is _ATEN.convolution.default and result.is_cpu:
        return _forward_scratch(args[0], result, transposed=args[6]) + args[1].nbytes
    if operation is _ATEN.convolution_backward.default and args[0].is_cpu:
        return _backward_scratch(args[0], args[1], args[2], needs_weight=args[10][1])
    return 0


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


def _attention_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward_flops(
    grad: Sequence[int],
    query: Sequence[int],
    key: Sequence[int],
    value: Sequence[int],
    *_: Any,
    out_shape: Any = None,
    **__: Any,
) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


def _forward_scratch(x: torch.Tensor, y: torch.Tensor, transposed: bool) -> int:
    if transposed:
        return _blocked(y) + max(0, _blocked(x) - y.nbytes)
    return max(_blocked(x) + _blocked(y) - y.nbytes, _blocked(y))


def _backward_scratch(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, needs_weight: bool) -> int:
    # Both gradients read the output's; that of the weight reads the images, that of the images writes them.
    both = _blocked(x) + _blocked(grad)
    return both if needs_weight else max(both - x.nbytes, _blocked(x)) + weight.nbytes


def _blocked(images: torch.Tensor) -> int:
    """Bytes of (B, C, spatial...) in blocks of 16 channels; a single channel is left as it is."""
    channels = images.shape[1]
    padded = channels if channels == 1 else -(-channels // _BLOCK) * _BLOCK
    return images.nbytes // channels * padded
