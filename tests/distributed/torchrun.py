# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What ``torchrun`` gives the processes that it starts."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return a port of this machine that no program has."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def variables(rank: int, port: int, count: int = 2) -> dict[str, str]:
    """Return the variables of a process on this machine."""
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    return place | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
