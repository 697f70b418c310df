# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`monai-essa federated job`: a job of NVIDIA FLARE for several hospitals."""

from __future__ import annotations

import argparse
from pathlib import Path

from monai_essa.cli.arguments import Commands, add_command, add_family, add_values_argument, config_values

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command ``job`` of ``federated``."""
    family = add_family(commands, "federated", "train an adapter over several hospitals that share no scans")
    parser = add_command(
        family,
        "job",
        _job,
        "write a job of NVIDIA FLARE, in which sites train by our bundles and exchange their adapters only",
        "monai-essa federated job hospitals --sites north,south,west --bundle essa_ssa --pretrained vit.pt\n"
        "nvflare simulator hospitals -w workspace -c north,south,west -t 1",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="of the job, new")
    parser.add_argument("--sites", required=True, metavar="A,B,C", help="names of the sites in the federation")
    parser.add_argument("--bundle", default="essa_ssa", help="that each site runs (default: %(default)s)")
    parser.add_argument("--overlay", nargs="+", default=[], metavar="FILE", help="overlays of the bundle, by name")
    parser.add_argument(
        "--pretrained", type=Path, required=True, metavar="FILE", help="the base, which each site needs too"
    )
    parser.add_argument("--start", type=Path, metavar="DIR", help="go on from the 'global' folder of an earlier job")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="in a round (default: %(default)s)")
    parser.add_argument(
        "--least-sites", type=int, default=2, metavar="N", help="whose results a round needs (default: %(default)s)"
    )
    parser.add_argument(
        "--freeze-head", action="store_true", help="keep the pretext head as the job brings it; it does not travel then"
    )
    parser.add_argument("--clip", type=float, metavar="LENGTH", help="shorten each update to this length")
    parser.add_argument(
        "--noise", type=float, default=0.0, metavar="SIGMA", help="on each update, in units of --clip (default: none)"
    )
    add_values_argument(parser, "the bundle, the same at all sites")


def _job(arguments: argparse.Namespace) -> int:
    from monai_essa.federated.job import PRETEXT, FederatedJob, write_job
    from monai_essa.federated.site import FederatedStage

    head = ("frozen" if arguments.freeze_head else "exchanged") if arguments.bundle in PRETEXT else "none"
    values = config_values(arguments.args)
    stage = FederatedStage(arguments.bundle, arguments.overlay, values, head, arguments.clip, arguments.noise)
    sites = [name.strip() for name in arguments.sites.split(",")]
    job = FederatedJob(sites, stage, arguments.rounds, arguments.steps, arguments.least_sites)
    begin = write_job(job, arguments.pretrained, arguments.folder, arguments.start)
    size = sum(value.nbytes for value in begin.values().values())
    print(f"{arguments.folder}: {len(sites)} sites, {job.rounds} rounds; {size:,} bytes leave a site in each")
    print(f"next: nvflare simulator {arguments.folder} -w workspace -c {','.join(sites)} -t 1, or nvflare job submit")
    return 0
