# Copyright (c) The monai_essa authors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

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
