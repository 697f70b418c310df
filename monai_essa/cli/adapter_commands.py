# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`monai-essa adapter info`, `merge`, `diff`, `export` and `average`, and `federated job`, which averages in rounds."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from monai_essa.bundling.folder import find_config
from monai_essa.cli.arguments import Commands, add_command, add_family, add_values_argument, config_values
from monai_essa.files import json_sha256

if TYPE_CHECKING:
    from monai_essa.adapters.record import AdapterHeader

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the commands of ``adapter``, and ``federated job``."""
    family = add_family(
        commands, "adapter", "look at adapter files, merge, compare and average them, make folders to share"
    )
    info = add_command(
        family, "info", _info, "say what an adapter file holds", "monai-essa adapter info adapter.safetensors"
    )
    info.add_argument("file", type=Path, metavar="FILE", help="an adapter file")
    _add_merge(family)
    diff = add_command(
        family, "diff", _diff, "compare two adapter files", "monai-essa adapter diff site_a.safetensors b.safetensors"
    )
    diff.add_argument("first", type=Path, metavar="A", help="an adapter file, the reference")
    diff.add_argument("second", type=Path, metavar="B", help="another")
    _add_export(family)
    _add_average(family)
    _add_job(add_family(commands, "federated", "train an adapter over several hospitals that share no scans"))


def _add_merge(family: Commands) -> None:
    parser = add_command(
        family,
        "merge",
        _merge,
        "fold an adapter into its base weights and write the weights of a plain MONAI network",
        "monai-essa adapter merge adapter.safetensors --base vit.pt --bundle essa_ssa --out model.pt",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="an adapter file")
    parser.add_argument(
        "--base", type=Path, required=True, metavar="WEIGHTS", help="the weight file that it was trained on"
    )
    parser.add_argument(
        "--base-prefix", metavar="PREFIX", help="of the names of the network to take, where WEIGHTS holds several"
    )
    parser.add_argument(
        "--base-grid",
        type=int,
        nargs="+",
        metavar="N",
        help="patches per axis that the position embeddings of WEIGHTS are for, where the file does not say it",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--bundle", metavar="BUNDLE", help="a bundle's folder or name, whose network_def is built")
    source.add_argument("--config-file", type=Path, nargs="+", metavar="FILE", help="configs with a network_def")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new file, as model.pt")
    _add_permission(parser)
    add_values_argument(parser, "the config")


def _add_export(family: Commands) -> None:
    parser = add_command(
        family,
        "export",
        _export,
        "write an adapter as a folder for the Hugging Face hub, with a model card; load_adapter reads it back",
        "monai-essa adapter export runs/spleen --format hub --out spleen_adapter",
    )
    parser.add_argument(
        "source", type=Path, metavar="RUN|FILE", help="the folder of a finished run, or an adapter file"
    )
    parser.add_argument("--format", choices=["hub"], default="hub", help="of the folder (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="a new folder (default: 'hub' in the run folder or beside the file)"
    )
    parser.add_argument(
        "--base-model", metavar="ID", help="of the base on the hub (default: the family of its weights)"
    )
    _add_permission(parser)


def _add_average(family: Commands) -> None:
    parser = add_command(
        family,
        "average",
        _average,
        "average the adapters of sites that share no scans: the adapter of the averaged weights",
        "monai-essa adapter average a.safetensors b.safetensors --weights 120 80 --out both.safetensors",
    )
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="adapter files of one base and one method, two or more"
    )
    parser.add_argument(
        "--weights", type=float, nargs="+", metavar="W", help="of the files, as numbers of scans (default: all alike)"
    )
    parser.add_argument(
        "--rank", type=int, metavar="R", help="of LoRA in the result (default: the exact one, as many times as files)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new adapter file")


def _add_job(family: Commands) -> None:
    parser = add_command(
        family,
        "job",
        _job,
        "write a job of NVIDIA FLARE, in which sites train by our bundles and exchange their adapters only",
        "monai-essa federated job hospitals --sites north,south,west --bundle essa_ssa --pretrained vit.pt\n"
        "nvflare simulator hospitals -w workspace -c north,south,west -t 3",
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
        "--wait",
        type=float,
        default=10.0,
        metavar="MINUTES",
        help="for the other sites when a round has these results (default: %(default)g)",
    )
    parser.add_argument(
        "--freeze-head", action="store_true", help="keep the pretext head as the job brings it; it does not travel then"
    )
    parser.add_argument("--clip", type=float, metavar="LENGTH", help="shorten each update to this length")
    parser.add_argument(
        "--noise", type=float, default=0.0, metavar="SIGMA", help="on each update, in units of --clip (default: none)"
    )
    add_values_argument(parser, "the bundle, the same at all sites")


def _add_permission(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--permission",
        metavar="TEXT",
        help="who allowed to share weights that derive from a base without derivatives (ND), and when; it is recorded",
    )


def _info(arguments: argparse.Namespace) -> int:
    from monai_essa.adapters.record import read_header

    lines = dict(_facts(read_header(arguments.file)))
    width = max(map(len, lines))
    print(*(f"{name:<{width}}  {text}" for name, text in lines.items()), sep="\n")
    return 0


def _merge(arguments: argparse.Namespace) -> int:
    from monai_essa.bundling.finished_run import merge_adapter_file, network_of_config, save_weights

    configs = arguments.config_file or [find_config(arguments.bundle, ("inference", "train"))]
    network = network_of_config(configs, config_values(arguments.args))
    base = (arguments.base_prefix, arguments.base_grid, arguments.permission)
    plain, report = merge_adapter_file(network, arguments.base, arguments.file, *base)
    save_weights(plain, arguments.out)
    print(report)
    print(f"wrote {arguments.out}: a plain {type(plain).__name__}, for load_state_dict without monai_essa")
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    from monai_essa.adapters.difference import compare_adapters
    from monai_essa.adapters.file import read_adapter
    from monai_essa.report.tables import format_table

    found = compare_adapters(read_adapter(arguments.first), read_adapter(arguments.second))
    print(f"methods: {found.methods}")
    print(f"base: {found.base}")
    rows = [[tensor.name, " x ".join(map(str, tensor.shape)), _digits(tensor.relative)] for tensor in found.tensors]
    if rows:
        print(format_table(["tensor", "shape", "|B - A| / |A|"], rows))
        print(f"all values together: {_digits(found.total)}")
    for label, names in (("A", found.only_first), ("B", found.only_second)):
        if names:
            print(f"only in {label}: {', '.join(names)}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from monai_essa.adapters.hub.folder import export_hub
    from monai_essa.report.model_card import run_card_facts

    source = arguments.source
    out = arguments.out or (source if source.is_dir() else source.parent) / "hub"
    written = export_hub(source, out, run_card_facts(source, arguments.base_model, arguments.permission))
    print(f"wrote {written.path}: read it back by load_adapter(network, {str(written.path)!r})")
    if written.without_peft:
        print(f"without the folder peft: {written.without_peft}")
    return 0


def _average(arguments: argparse.Namespace) -> int:
    from monai_essa.adapters.averaging.average import average_adapters
    from monai_essa.adapters.file import read_adapter
    from monai_essa.adapters.record import methods_text

    if arguments.out.exists():
        raise FileExistsError(f"{arguments.out} exists: give --out a new file")
    made = average_adapters([read_adapter(path) for path in arguments.files], arguments.weights, arguments.rank)
    made.save(arguments.out)
    for path, share in zip(arguments.files, made.shares, strict=True):
        print(f"{share:6.1%}  {path}")
    errors = made.errors.values()
    print(f"truncated, relative error up to {max(errors):.3g}" if errors else "exact: adapter of the averaged weights")
    print(f"wrote {arguments.out}: {methods_text(made.record)}")
    return 0


def _facts(file: AdapterHeader) -> Iterator[tuple[str, str]]:
    from monai_essa.adapters.record import methods_text
    from monai_essa.licence import licence_line

    record = file.record
    of_method = set(record["method_tensors"])
    values = sum(math.prod(tensor.shape) for tensor in file.tensors.values())
    yield "file", f"{file.path}, {file.path.stat().st_size / 1e6:.2f} MB, format {record['format_version']}"
    yield "method", methods_text(record)
    yield "also trained", ", ".join(record["also_train"]) or "nothing"
    yield "network", record["network"]
    yield "tensors", f"{len(file.tensors)} with {values:,} values, {len(of_method)} of them of the method"
    yield "made with", ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    card = [f"{name} {value}" for name, value in record["preprocessing"].items()]
    yield "preprocessing", ", ".join(card) or "not said"
    yield "licence", licence_line(record["base"]) if "base" in record else "not said"
    yield "base", f"{json_sha256(record['fingerprint'])[:12]}, over {len(record['fingerprint'])} frozen encoder tensors"


def _digits(value: float | None) -> str:
    return "other shape" if value is None else f"{value:.3g}"


def _job(arguments: argparse.Namespace) -> int:
    from monai_essa.federated.job import PRETEXT, FederatedJob, write_job
    from monai_essa.federated.site import FederatedStage

    head = ("frozen" if arguments.freeze_head else "exchanged") if arguments.bundle in PRETEXT else "none"
    values = config_values(arguments.args)
    stage = FederatedStage(arguments.bundle, arguments.overlay, values, head, arguments.clip, arguments.noise)
    sites = [name.strip() for name in arguments.sites.split(",")]
    job = FederatedJob(sites, stage, arguments.rounds, arguments.steps, arguments.least_sites, arguments.wait)
    begin = write_job(job, arguments.pretrained, arguments.folder, arguments.start)
    size = sum(value.nbytes for value in begin.values().values())
    print(f"{arguments.folder}: {len(sites)} sites, {job.rounds} rounds; {size:,} bytes leave a site in each")
    print(f"next: {arguments.folder}/README.md says what each site does, and how to try them all on this machine")
    return 0
