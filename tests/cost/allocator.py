# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What the CPU's own allocator saw: the oracle of the memory meter."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def allocated_peak(work: Callable[[], object]) -> int:
    """Bytes that some work had taken at its worst moment, beside what was there before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # with one thread torch takes other kernels for some small convolutions
    try:
        work()  # whatever is made once and kept
        gc.collect()  # what an earlier test left behind would be freed in the middle of it
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            result = work()
    finally:
        torch.set_num_threads(threads)
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    del result
    return peak
