# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What training costs on a GPU: peak memory and images a second, all contenders in turn, as JSON and as a table.

``python -m benchmarks.gpu --out gpu.json`` takes some minutes on one card. It needs torch, MONAI and the wheel, and for
the row of the peft package that package. Contenders are those of :mod:`benchmarks.contenders` in bf16, and ours once
more through ``torch.compile``.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn as nn

from benchmarks.contenders import STOCK, Contender, timed_contenders
from benchmarks.reference_work import REFERENCE_WORK, ReferenceWork
from benchmarks.scale import quick_scale
from benchmarks.tables import markdown_table
from benchmarks.times import Seconds, measured_peaks, step_seconds
from monai_essa.devices import default_device, gpu_memory, is_gpu

__all__ = ["Measured", "main", "measure", "reached", "table"]

_logger = logging.getLogger(__name__)
_PEFT = "peft package, LoRA"
_FAST, _SMALL, _COMPILED = "ours, APLA, fast bf16", "ours, APLA, small bf16", "ours, APLA, fast bf16, compiled"
_CHOSEN = (STOCK.name, _PEFT, "ours, LoRA, fast bf16", _FAST, _SMALL)
# Of stock full-parameter training: the most of its peak, and of its time, that is aimed at.
_AIMED: dict[str, tuple[float, float]] = {_FAST: (0.50, 0.72), _SMALL: (0.26, 0.90)}
_ROUNDS = 20


@dataclass(frozen=True)
class Measured:
    """What one contender took.

    Attributes:
        seconds: median of a step.
        quartiles: of the seconds.
        time_ratio: to stock training, median of the ratios within a round.
        images_per_second: of the median step.
        peak_bytes: the most that the GPU gave out in a step; None where there is no GPU.
    """

    seconds: float
    quartiles: tuple[float, float]
    time_ratio: float
    images_per_second: float
    peak_bytes: int | None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: of the command; None takes them from the interpreter.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny network, on any device: shows that it works")
    parser.add_argument("--out", type=Path, help="where to write the JSON (default: only the table is shown)")
    options = parser.parse_args(arguments)
    device = default_device()
    if not is_gpu(device) and not options.quick:
        parser.error("there is no GPU here; --quick shows on a CPU that the command works")
    work = quick_scale().timed[0] if options.quick else REFERENCE_WORK[0]
    found = measure(work, device, 2 if options.quick else _ROUNDS)
    lines = [
        f"{work.name}, batch {work.batch}, {(gpu_memory() or ('no GPU', 0))[0]}",
        "",
        *table(found),
        *reached(found),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    if options.out is not None:
        content = {"work": work.name, "batch": work.batch, "gpu": gpu_memory(), "torch": torch.__version__}
        rows = {name: asdict(each) for name, each in found.items()}
        options.out.write_text(json.dumps(content | {"contenders": rows}, indent=2) + "\n", encoding="utf-8")


def measure(work: ReferenceWork, device: torch.device, rounds: int) -> dict[str, Measured]:
    """Measure peak and time of each contender in one run.

    Args:
        work: what is trained.
        device: where.
        rounds: how often each is timed, in turn.
    """
    contenders = list(_contenders(compiled=is_gpu(device)))
    _logger.info("peaks of %d contenders", len(contenders))
    peaks = measured_peaks(work, contenders, device)
    _logger.info("seconds, %d rounds", rounds)
    times = step_seconds(work, contenders, rounds, device)
    return {name: _measured(work, own, times[STOCK.name], peaks.get(name)) for name, own in times.items()}


def table(found: Mapping[str, Measured]) -> list[str]:
    """Return the lines of a Markdown table.

    Example:
        >>> one = Measured(0.5, (0.4, 0.6), 1.0, 32.0, 2**30)
        >>> table({"MONAI, full": one})[2]
        '| MONAI, full | 0.5000 | 0.4000 to 0.6000 | 1.000 | 32.0 | 1024 | 1.000 |'
    """
    stock = found[STOCK.name].peak_bytes
    rows = []
    for name, each in found.items():
        low, high = each.quartiles
        row = [name, f"{each.seconds:.4f}", f"{low:.4f} to {high:.4f}", f"{each.time_ratio:.3f}"]
        row.append(f"{each.images_per_second:.1f}")
        peak = each.peak_bytes
        rows.append(row + (["", ""] if not peak or not stock else [f"{peak / 2**20:.0f}", f"{peak / stock:.3f}"]))
    columns = ("training", "s per step", "quartiles", "time ratio", "images per s", "peak, MiB", "peak ratio")
    return markdown_table(columns, rows)


def reached(found: Mapping[str, Measured]) -> list[str]:
    """Say of each target whether it was met; nothing of a peak that was not measured.

    Example:
        >>> full = Measured(1.0, (1.0, 1.0), 1.0, 2.0, 100)
        >>> reached({"MONAI, full": full, _FAST: dataclasses.replace(full, time_ratio=0.8, peak_bytes=40)})[1]
        'ours, APLA, fast bf16: time 0.800, aimed at 0.72: missed'
    """
    lines, stock = [], found[STOCK.name].peak_bytes
    for name, (peak, time) in _AIMED.items():
        if name not in found:
            continue
        own = found[name].peak_bytes
        ratios = ([("peak", own / stock, peak)] if own and stock else []) + [("time", found[name].time_ratio, time)]
        lines += [
            f"{name}: {what} {ratio:.3f}, aimed at {aim:.2f}: {'met' if ratio <= aim else 'missed'}"
            for what, ratio, aim in ratios
        ]
    return lines


def _contenders(compiled: bool) -> list[Contender]:
    known = {contender.name: contender for contender in timed_contenders(torch.bfloat16)}
    chosen = [known[name] for name in _CHOSEN if name != _PEFT or importlib.util.find_spec("peft")]
    fast = known[_FAST]
    return chosen + ([dataclasses.replace(fast, name=_COMPILED, make=_compiled(fast.make))] if compiled else [])


def _compiled(make: Callable[[ReferenceWork], nn.Module]) -> Callable[[ReferenceWork], nn.Module]:
    return lambda work: torch.compile(make(work))  # type: ignore[return-value]


def _measured(work: ReferenceWork, own: Seconds, stock: Seconds, peak: int | None) -> Measured:
    return Measured(own.median, own.quartiles, own.ratio_to(stock), work.batch / own.median, peak)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
