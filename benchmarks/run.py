# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The benchmark: what our training costs beside that of MONAI and of the peft package, as one Markdown page.

``python -m benchmarks.run --out docs/benchmark.md`` makes the page of the documentation.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.adapter_times import adapter_table
from benchmarks.contenders import STOCK, timed_contenders
from benchmarks.data_cost import sample_seconds
from benchmarks.scale import KINDS, Scale, full_scale, quick_scale
from benchmarks.tables import cost_tables, costs_of, growth_table, markdown_table, target_table
from benchmarks.times import Seconds, measured_peaks, step_seconds, time_table

__all__ = ["benchmark_page", "main"]

_logger = logging.getLogger(__name__)
_FAST, _SMALL, _PLAIN = "ours, APLA, fast", "ours, APLA, small", "ours, APLA, plain checkpoint of each block"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: of the command; None takes them from the interpreter.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--work", nargs="+", choices=KINDS, default=list(KINDS), help="which networks (all)")
    parser.add_argument("--quick", action="store_true", help="tiny networks: only shows that the command works")
    parser.add_argument("--out", type=Path, help="where to write the page (standard output)")
    options = parser.parse_args(arguments)
    command = parser.prog + (f" --work {' '.join(options.work)}" if options.work != list(KINDS) else "")
    command += " --quick" if options.quick else ""
    scale = (quick_scale() if options.quick else full_scale()).only(options.work)
    page = benchmark_page(scale, command)
    if options.out is None:
        sys.stdout.write(page)
    else:
        options.out.write_text(page, encoding="utf-8")


def benchmark_page(scale: Scale, command: str) -> str:
    """Measure everything and write the page.

    Args:
        scale: what is measured.
        command: what the reader types to get this page.

    Returns:
        Markdown.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lines = [*_heading(scale.title, command, device), *_counted(scale)]
    steps: dict[str, float] = {}  # seconds of training an image, by name of the work
    for dtype in (None, torch.bfloat16) if device.type == "cuda" else (None,):
        lines += _timed(scale, device, dtype, steps)
    _logger.info("adapters and data")
    lines += [_ADAPTERS, *adapter_table(scale.networks, scale.rounds, device)] if scale.networks else []
    return "\n".join([*lines, *_data(scale, steps)])


def _heading(title: str, command: str, device: torch.device) -> Iterator[str]:
    cuda = device.type == "cuda"
    threads = torch.get_num_threads()
    yield _INTRODUCTION.format(title=title, command=f"OMP_NUM_THREADS={threads} {command}")
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "monai", "monai_essa", "peft"))
    yield f"- Versions: python {platform.python_version()}, {packages}"
    yield f"- CPU: {_processor()}, {os.cpu_count()} cores, {threads} threads used"
    yield f"- GPU: {torch.cuda.get_device_name(device) if cuda else 'none; not measured on a GPU'}\n"


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _counted(scale: Scale) -> Iterator[str]:
    costs = {}
    for work in scale.works:
        _logger.info("counting %s", work.name)
        costs[work.name] = costs_of(work)
    targets = target_table(costs)
    yield from ["## Targets and results", "", *targets] if targets else []
    yield _COUNTED
    yield from cost_tables(costs, {work.name: work.batch for work in scale.works})
    yield "## Growth with the volume\n\nThe peak of a step, counted in the same way.\n"
    for growth in scale.growths:
        _logger.info("growth of %s", growth.name)
        yield from growth_table(growth)


def _timed(scale: Scale, device: torch.device, dtype: torch.dtype | None, steps: dict[str, float]) -> Iterator[str]:
    contenders = timed_contenders(dtype)
    fast, small, plain = (_named(name, dtype) for name in (_FAST, _SMALL, _PLAIN))
    if scale.timed:
        yield _TIMED.format(rounds=scale.rounds, format="bf16" if dtype else "fp32")
    aimed = [contender for contender in contenders if contender.name in (STOCK.name, fast, small)]
    for work, chosen in [*((work, contenders) for work in scale.timed), *((work, aimed) for work in scale.aimed)]:
        _logger.info("timing %s", work.name)
        costs = costs_of(work, chosen)
        peaks = measured_peaks(work, chosen, device)
        times = step_seconds(work, chosen, scale.rounds, device)
        yield f"### {work.name}, batch {work.batch}\n"
        yield from time_table(work, times, costs, peaks)
        if chosen is aimed:
            yield _AIMED
            continue
        operations = {name: cost.flops / costs[fast].flops for name, cost in costs.items()}
        yield _recomputing(times, operations, fast, (small, plain))
        steps.setdefault(work.name, times[fast].median / work.batch)


def _named(name: str, dtype: torch.dtype | None) -> str:
    return f"{name} bf16" if dtype and name != _PLAIN else name


def _recomputing(times: dict[str, Seconds], operations: dict[str, float], fast: str, names: Sequence[str]) -> str:
    parts = []
    for name in names:
        ratio = times[name].ratio_to(times[fast])
        parts.append(
            f"`{name}` takes {ratio:.3f} of the time of `{fast}` for {operations[name]:.3f} of its operations: "
            f"{ratio / operations[name] - 1:+.1%} beyond its operations"
        )
    return "Recomputation: " + "; ".join(parts) + ".\n"


def _data(scale: Scale, steps: dict[str, float]) -> Iterator[str]:
    crop = 96 if scale.scan > 96 else 32
    cost = sample_seconds("essa_ssa", scale.scan, crop, scale.samples)
    yield _DATA.format(crop=crop, side=scale.scan)
    columns = ("sample", "s", *(f"share of a step of {name}" for name in steps))
    kinds = {"no cache": cost.raw, "CacheDataset": cost.cached, "mapped cache": cost.mapped}
    rows = [(kind, f"{own:.4f}", *(f"{own / step:.1%}" for step in steps.values())) for kind, own in kinds.items()]
    yield from markdown_table(columns, rows)
    yield f"\nFilling the mapped cache: {cost.filling:.2f} s and {cost.volume_bytes / 1e6:.0f} MB a volume, once.\n"


_INTRODUCTION = """# {title}

One command makes this page. The rows of the peft package need `pip install "monai_essa[peft]"`.

```bash
{command} --out docs/benchmark.md
```
"""

_COUNTED = """## A training step, counted

The steps are counted on fake tensors, so the numbers are the same on every machine. They cover the forward pass,
the backward pass and the optimizer of the second step; the peak includes weights, batch, saved tensors,
temporaries, gradients and the state of the optimizer. Ratios are relative to `MONAI, full`: MONAI's own networks
and forward passes, every parameter trained, torch's default AdamW. `fast` computes nothing twice. `small` computes
transformer blocks again, except their attention. `bf16` is autocast, with frozen weights and the inputs of blocks
kept in bf16. Images are 96 x 96 x 96. LoRA has rank 8 on queries, keys and values; ours has an A and a B for each
of them, peft has one A and one B for the fused layer.
"""

_TIMED = """## A training step, timed: {format}

All rows are timed in turns in one run: each of {rounds} rounds runs every row once, after a round that is not
timed. The table shows medians and quartiles; the time ratio is the median of the ratios within a round. FLOPs are
counted. Other work may have run on the machine, but it affects all rows alike.
"""

_AIMED = "The targets on a CPU in fp32 are a time ratio of 0.72 for fast and 0.90 for small.\n"

_ADAPTERS = """## Adapters

The swap reads a file into a network that is already adapted. The merged network is a plain network of the same
class, so the time of its inference differs from the base only by the noise of the clock; `noise` is the same ratio
for a copy of the base.
"""

_DATA = """## Data pipeline

One core makes a sample with the transforms of essa_ssa: a {crop}-cubed crop of a {side}-cubed int16 scan in a
`.nii.gz` file. The shares are relative to the time that `ours, APLA, fast` trains on one image; below 100 % one
worker keeps the training busy.
"""


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
