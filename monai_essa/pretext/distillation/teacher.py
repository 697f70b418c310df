# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The teacher: a moving average of the tensors that learn; all frozen tensors are the student's own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.func import functional_call

from monai_essa.pretext.distillation.views import in_eval

__all__ = ["AveragedTensors"]


class AveragedTensors(nn.Module):
    r"""Keep an exponential moving average of what learns in a module, and run the module with it.

    .. math:: \theta_t \leftarrow m \theta_t + (1 - m) \theta_s

    With a frozen base this is the whole teacher: its other tensors are not copied, they are those of the student, by
    reference, in whatever form lean training stores them. Of norms that learn, the running statistics are averaged too:
    the teacher runs in eval mode, and would move with those of the student at any momentum. The average is kept in
    buffers, which a checkpoint saves, and starts as a copy.

    Args:
        module: the student; it is not kept.

    Example:
        >>> student = nn.Linear(2, 2)
        >>> teacher = AveragedTensors(student)
        >>> with torch.no_grad():
        ...     _ = student.weight.add_(1.0)
        >>> teacher.follow(student, torch.tensor(0.5))
        >>> bool(torch.allclose(teacher.tensors()["weight"], student.weight - 0.5))
        True
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._names: dict[str, str] = {}
        self.restart(module)

    def restart(self, module: nn.Module) -> None:
        """Begin again as a copy of what learns in the module now."""
        for name in self._names.values():
            delattr(self, name)
        learning = _changing(module)
        self._names = {name: name.replace(".", "/") for name in learning}  # a buffer's name may hold no dot
        for name, tensor in learning.items():
            self.register_buffer(self._names[name], tensor.detach().clone())

    def tensors(self) -> dict[str, Tensor]:
        """Return the averaged tensors by their names in the module; not copies."""
        return {name: self.get_buffer(own) for name, own in self._names.items()}

    @torch.no_grad()
    def follow(self, module: nn.Module, momentum: Tensor) -> None:
        """Move the average towards the module: at momentum 1 it stays, at 0 it becomes a copy.

        Args:
            module: the student.
            momentum: m, a scalar tensor.
        """
        student = _tensors(module)
        for name, average in self.tensors().items():
            average.lerp_(student[name].to(average), (1 - momentum).to(average))

    @torch.no_grad()
    def run(self, module: nn.Module, *inputs: Any) -> Any:
        """Run the module with the averaged tensors in the place of its own, in eval mode and without gradients."""
        with in_eval(module):
            return functional_call(module, self.tensors(), inputs)

    @torch.no_grad()
    def copy_to(self, module: nn.Module, prefix: str) -> None:
        """Copy the averages whose names begin with a prefix into the module, so that it is the teacher from now on."""
        own = _tensors(module)
        for name, average in self.tensors().items():
            if name.startswith(prefix):
                own[name].copy_(average)


def _changing(module: nn.Module) -> dict[str, Tensor]:
    """Return what learns in a module, and the running statistics of norms that learn, by name."""
    learning = {name for name, tensor in module.named_parameters() if tensor.requires_grad}
    owners = {name.rpartition(".")[0] for name in learning}
    statistics = {f"{owner}.{name}" for owner in owners for name in ("running_mean", "running_var")}
    return {name: tensor for name, tensor in _tensors(module).items() if name in learning | statistics}


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())
