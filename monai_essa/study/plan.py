# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Plan a study: choose what fits the computer and the hours, and list the stages of all arms that remain."""

from __future__ import annotations

import io
import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from monai_essa.files import write_text_whole
from monai_essa.planning.choices import Computer
from monai_essa.planning.networks import Network, given_images, given_network, images_for, network_ladder
from monai_essa.planning.site import ImageFacts
from monai_essa.planning.study_plan import PlannedStage
from monai_essa.study.arms import ARMS, CHECK_OF_RATES, Arm, StudyDesign, listed_stages, refit_stages, training_steps
from monai_essa.study.hours import STEPS, Memory, Work, default_sizes, fitting_sizes, measure, network_work
from monai_essa.study.scans import SiteScans
from monai_essa.study.splits import Fold, Partition, Scan, partition_sections
from monai_essa.study.stages import Stage, Timings, quiet_libraries

__all__ = ["Draft", "Preset", "StudyRequest", "Surroundings", "draft_study"]

_LEAST_REPEATS = 3
_LEAST_STEPS = 80  # on labels: the fewest of any study of ours; with fewer no network has learned
_GOOD_STEPS = 240  # on labels: what docs/studies trained for
_CORE = 2  # arms that a study cannot do without
_CHECKED_UNDER = 40  # labelled patients: no rate is searched, and a third of it is tried
_USED = 0.9  # of the hours; the rest is for the verdict, the report and the other users of the computer
_CACHE_SHARE = 0.25  # of the computer's memory
_SIZES = {"hidden_size", "mlp_dim", "num_heads"}  # of a ViT; the ladder of networks differs in them
_FEW = 3  # scans, or images of a class, that the times are measured on


@dataclass(frozen=True)
class Preset:
    """A study whose size is fixed beforehand, such as the demo's.

    Attributes:
        arms: names of :data:`monai_essa.study.arms.ARMS`.
        steps: on labels.
        network: that all arms share.
        timings: about what its stages take.
        reason: why its result is provisional.
    """

    arms: Sequence[str]
    steps: int
    network: Network
    timings: Timings
    reason: str


@dataclass(frozen=True)
class StudyRequest:
    """What a user asks of a study, beside its scans.

    Attributes:
        pretrained: the base: a file, ``family:NAME`` or ``bundle:DIR``; None makes one here.
        hours: for everything.
        values: over those of the plan, by key of the configs.
        seed: of the draws and the trainings.
        preset: a size that is fixed beforehand, instead of what fits the hours.
    """

    pretrained: str | None = None
    hours: float = 8.0
    values: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    preset: Preset | None = None


@dataclass(frozen=True)
class Surroundings:
    """What a plan is made for.

    Attributes:
        site: the scans and labels.
        parts: how the patients are parted.
        facts: of the scans.
        computer: that trains.
        folder: of the study, absolute.
    """

    site: SiteScans
    parts: Partition
    facts: ImageFacts
    computer: Computer
    folder: Path


@dataclass(frozen=True)
class Draft:
    """A study that fits.

    Attributes:
        design: of its stages.
        arms: that remain.
        dropped: ``name`` and ``reason`` of the others.
        parts: with the repeats that fit.
        stages: as the plan lists them, each with what it runs.
        memory: of a step; None where it was not measured.
        provisional: why no word may be said; None if one may.
        notes: lines about what was refused.
    """

    design: StudyDesign
    arms: Sequence[Arm]
    dropped: Sequence[Mapping[str, str]]
    parts: Partition
    stages: Sequence[tuple[PlannedStage, Stage]]
    memory: Memory | None
    provisional: str | None
    notes: Sequence[str]

    @property
    def seconds(self) -> float:
        """Return the seconds of all stages, the refit of one arm among them."""
        refits = [planned.seconds for planned, _ in self.stages if planned.kind == "refit"]
        others = sum(planned.seconds for planned, _ in self.stages if planned.kind != "refit")
        return others + 3 * max(refits, default=0.0)  # base, SSA and training at most

    @property
    def disk(self) -> float:
        """Return the bytes that the trainings leave: model.pt, an adapter of that size at most, a resume file."""
        weights = 0 if self.memory is None else self.memory.weights
        trainings = sum(planned.kind not in ("test", "floor", "refit") for planned, _ in self.stages)
        return (2.0 * trainings + 6.0) * weights


def draft_study(request: StudyRequest, around: Surroundings) -> Draft:
    """Measure on this computer, and choose network, arms, repeats and steps.

    The largest network is taken with which the three most important arms can do their steps in every repeat. Then, if
    the hours are short, arms are dropped from the end of the list; if they still are, repeats down to three, then
    steps; if even that does not fit, a single repeat is planned and its result is provisional.

    Args:
        request: of the user.
        around: the scans, how they are parted, and the computer.

    Returns:
        The draft.

    Raises:
        FileNotFoundError: if the weights are missing.
        ValueError: if a value has no place, the memory or the hours are too short, or the base does not fit.
    """
    begin = time.monotonic()
    fitting = _Fitting(request, around)
    if request.preset is not None:
        return fitting.preset(request.preset)
    with quiet_libraries(), redirect_stderr(io.StringIO()):  # of the steps that are tried
        design, timings, memory, notes = fitting.network(begin)
    arms, dropped = _applicable(design, around)
    if around.parts.design == "none":
        steps = fitting.most_steps(design, timings, (), 1, begin)
        return fitting.draft(design, timings, memory, ([], 1, steps), [], notes)
    chosen = fitting.option(design, timings, arms, begin)
    cut = [arm for arm in arms if arm not in chosen[0]]
    dropped += [{"name": arm.name, "reason": f"--hours {request.hours:g} is too short for it"} for arm in cut]
    return fitting.draft(design, timings, memory, chosen, dropped, notes)


class _Fitting:
    """The search for what fits, over one request and its surroundings."""

    def __init__(self, request: StudyRequest, around: Surroundings) -> None:
        self.request = request
        self.around = around

    def preset(self, preset: Preset) -> Draft:
        """Draft a study of a fixed size, for which nothing is measured."""
        design = self._design(self.around.site.task or "segmentation", preset.network)
        design = replace(design, sizes={**design.sizes, **default_sizes(design)})
        arms = [arm for arm in ARMS if arm.name in preset.arms]
        return self.draft(design, preset.timings, None, (arms, len(self.around.parts.repeats), preset.steps), [], [])

    def network(self, begin: float) -> tuple[StudyDesign, Timings, Memory, list[str]]:
        """Choose the network, with its sizes, its times and what was refused."""
        designs = self._designs()
        on_cuda = self.around.computer.device != "cpu"  # where a small network does not show what a large one takes
        design, memory = self._first_that_fits(designs if on_cuda else designs[::-1])
        with tempfile.TemporaryDirectory() as place:
            small = _in_small(design, self.around, Path(place))
            timings = measure(small, self.around.parts.design != "none")
        if on_cuda or len(designs) == 1:
            return design, timings, memory, list(design.network.notes)
        work, found = network_work(design), (design, timings, memory)
        smaller = [each.network for each in designs].index(design.network)
        for larger in designs[:smaller][::-1]:
            refusal, candidate = self._candidate(larger, timings, work, begin)
            if candidate is None:
                return (*found, [refusal])
            found = candidate
        return (*found, [])

    def _candidate(
        self, design: StudyDesign, measured: Timings, of: Work, begin: float
    ) -> tuple[str, tuple[StudyDesign, Timings, Memory] | None]:
        """Return a larger network with its times, or why it is refused."""
        design = replace(design, sizes={**design.sizes, **default_sizes(design)})
        for fitted in (False, True):  # the memory takes longer to measure, and a smaller batch takes less time
            work = network_work(design)
            timings = measured.scaled(work.pretext / of.pretext, work.supervised / of.supervised)
            needed = self._seconds(design, timings, ARMS[: _CORE + 1], len(self.around.parts.repeats), _GOOD_STEPS)
            if needed > self._budget(begin):
                return self._refusal(design.network, needed), None
            if not fitted:
                try:
                    design, memory = fitting_sizes(design, self.around.computer.budget)
                except ValueError as error:
                    return str(error), None
        return "", (design, timings, memory)

    def option(
        self, design: StudyDesign, timings: Timings, arms: Sequence[Arm], begin: float
    ) -> tuple[Sequence[Arm], int, int]:
        """Return the arms, repeats and steps that fit."""
        least = 0.0
        for option in _options(arms, len(self.around.parts.repeats)):
            least = self._seconds(design, timings, *option)
            if least <= self._budget(begin):
                kept, repeats, steps = option
                most = self.most_steps(design, timings, kept, repeats, begin) if steps == _GOOD_STEPS else steps
                return kept, repeats, max(steps, most)
        needed = self._seconds(design, timings, arms[:_CORE], _LEAST_REPEATS, _GOOD_STEPS)
        raise ValueError(
            f"--hours {self.request.hours:g} is too short: with {design.network.name} a single repeat of "
            f"{STEPS[0]} steps takes about {_hours(least)}, and a study of {_LEAST_REPEATS} repeats and {_GOOD_STEPS} "
            f"steps about {_hours(needed)}; give more --hours"
            + ("" if self.request.pretrained is None else ", or leave --pretrained out for a smaller network")
        )

    def most_steps(self, design: StudyDesign, timings: Timings, arms: Sequence[Arm], repeats: int, begin: float) -> int:
        """Return the most steps that fit, the fewest there are if none do."""
        fitting = [s for s in STEPS if self._seconds(design, timings, arms, repeats, s) <= self._budget(begin)]
        return max(fitting, default=STEPS[0])

    def draft(
        self,
        design: StudyDesign,
        timings: Timings,
        memory: Memory | None,
        chosen: tuple[Sequence[Arm], int, int],
        dropped: Sequence[Mapping[str, str]],
        notes: Sequence[str],
    ) -> Draft:
        """List the stages of what was chosen."""
        arms, repeats, steps = chosen
        parts = replace(self.around.parts, repeats=self.around.parts.repeats[:repeats])
        design = _with_steps(design, timings, steps)
        provisional = None if self.request.preset is None else self.request.preset.reason
        if provisional is None and arms and repeats < _LEAST_REPEATS:
            provisional = f"{repeats} repeat: the hours are too short for the {_LEAST_REPEATS} that a verdict needs"
        stages = listed_stages(design, timings, arms, parts)
        taken = min((training_steps(stage) for planned, stage in stages if planned.kind == "train"), default=0)
        if provisional is None and arms and taken < _LEAST_STEPS:
            provisional = f"{taken} steps of training: a network that has learned needs {_LEAST_STEPS}; give more hours"
        stages += refit_stages(design, timings, arms, parts.refit) if arms else []
        return Draft(design, arms, dropped, parts, stages, memory, provisional, notes)

    def _designs(self) -> list[StudyDesign]:
        """Return a design for each network in question, from large to small."""
        task, facts = self.around.site.task or "segmentation", self.around.facts
        networks: Sequence[Network] = network_ladder(task, facts.spatial_dims)
        if self.request.pretrained is not None:
            networks = [given_network(self.request.pretrained)]
        elif _SIZES & self.request.values.keys():
            networks = [replace(networks[-1], name="a ViT of the given sizes")]
        return [self._design(task, network) for network in networks]

    def _design(self, task: str, network: Network) -> StudyDesign:
        site = self.around.site
        labels = site.classes or {"background": 0, "foreground": 1}
        images = given_images(images_for(task, self.around.facts, network, labels, site.several), self.request.values)
        voxels = math.prod(math.ceil(length) for length in self.around.facts.extent) * images.in_channels
        if images.spacing is not None:
            voxels = int(voxels / math.prod(images.spacing))
        large = 5 * voxels * len(site.scans) > _CACHE_SHARE * self.around.computer.ram
        sizes = {"cache_dir": str(self.around.folder / "cache") if large else None, "ssa_share": 1.0}
        return StudyDesign(
            task=task,
            images=images,
            network=network,
            pretrained=self.request.pretrained,
            steps=dict.fromkeys(("base", "ssa", "train"), _GOOD_STEPS),
            sizes=sizes,
            values=self.request.values,
            folder=self.around.folder,
            seed=self.request.seed,
        )

    def _first_that_fits(self, designs: Sequence[StudyDesign]) -> tuple[StudyDesign, Memory]:
        for design in designs[:-1]:
            try:
                return fitting_sizes(design, self.around.computer.budget)
            except ValueError:
                continue
        return fitting_sizes(designs[-1], self.around.computer.budget)

    def _seconds(self, design: StudyDesign, timings: Timings, arms: Sequence[Arm], repeats: int, steps: int) -> float:
        """Return the seconds of a study, and of training once more on all labels what is exported."""
        design = _with_steps(design, timings, steps)
        parts = replace(self.around.parts, repeats=self.around.parts.repeats[:repeats])
        listed = sum(planned.seconds for planned, _ in listed_stages(design, timings, arms, parts))
        refit = refit_stages(design, timings, arms[:1], parts.refit) if arms else []
        return listed + sum(planned.seconds for planned, _ in refit)

    def _budget(self, begin: float) -> float:
        return self.request.hours * 3600 * _USED - (time.monotonic() - begin)

    def _refusal(self, network: Network, seconds: float) -> str:
        names, repeats = ", ".join(arm.title for arm in ARMS[: _CORE + 1]), len(self.around.parts.repeats)
        return (
            f"{network.name} is refused: {repeats} repeats of {names} with {_GOOD_STEPS} steps each would take about "
            f"{_hours(seconds)}, and --hours is {self.request.hours:g}; a smaller network is taken"
        )


def _applicable(design: StudyDesign, around: Surroundings) -> tuple[list[Arm], list[dict[str, str]]]:
    """Return the arms that make sense here, and those that do not with the reason."""
    left_out = []
    if not design.network.adds_tensors:
        left_out.append({"name": "tpp", "reason": "APLA adds no tensors that TPP could pre-train"})
    if around.parts.repeats and _patients(around.parts.repeats[0][0].training) >= _CHECKED_UNDER:
        reason = f"from {_CHECKED_UNDER} labelled patients on the defaults are not checked at a third of the rate"
        left_out += [{"name": name, "reason": reason} for name in CHECK_OF_RATES]
    names = {each["name"] for each in left_out}
    return [arm for arm in ARMS if arm.name not in names], left_out


def _options(arms: Sequence[Arm], repeats: int) -> Iterator[tuple[Sequence[Arm], int, int]]:
    """Yield arms, repeats and steps from what is wanted to the least, in the order of the protocol."""
    for count in range(len(arms), _CORE - 1, -1):
        if not (arms[count - 1].name == CHECK_OF_RATES[0]):  # the two are together or not at all
            yield arms[:count], repeats, _GOOD_STEPS
    for fewer in range(repeats - 1, _LEAST_REPEATS - 1, -1):
        yield arms[:_CORE], fewer, _GOOD_STEPS
    shorter = [steps for steps in reversed(STEPS) if steps < _GOOD_STEPS]
    for steps in shorter:
        yield arms[:_CORE], min(repeats, _LEAST_REPEATS), steps
    for steps in (_GOOD_STEPS, *shorter):
        yield arms[:_CORE], 1, steps


def _with_steps(design: StudyDesign, timings: Timings, steps: int) -> StudyDesign:
    """Set the steps of each kind, and the time of SSA in tenths of that of a training."""
    share = math.ceil(10 * timings.step["ssa"] / max(timings.step["peft"], 1e-9)) / 10
    return replace(
        design, steps={"base": 2 * steps, "ssa": steps, "train": steps}, sizes={**design.sizes, "ssa_share": share}
    )


def _in_small(design: StudyDesign, around: Surroundings, place: Path) -> StudyDesign:
    """Write a data list of a few scans, and return the design in its folder."""
    parts, label_map = around.parts, around.site.label_map
    fold = parts.repeats[0][0]
    few = Fold(_few(fold.training), _few(fold.test), fold.unlabeled[:_FEW])
    sections = partition_sections(replace(parts, repeats=((few,),), refit=few))
    about = {"label_map": {f"{value:g}": number for value, number in label_map.items()}} if label_map else {}
    write_text_whole(place / "datalist.json", json.dumps(about | sections))
    return replace(design, folder=place, sizes={**design.sizes, "cache_dir": None})


def _few(scans: Sequence[Scan]) -> tuple[Scan, ...]:
    """Return a few scans of each class."""
    by_class: dict[str, list[Scan]] = {}
    for scan in scans:
        by_class.setdefault(str(scan.label) if not isinstance(scan.label, str) else "map", []).append(scan)
    return tuple(scan for held in by_class.values() for scan in held[:_FEW])


def _patients(scans: Sequence[Scan]) -> int:
    return len({scan.patient for scan in scans})


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2g} hours" if seconds >= 5400 else f"{seconds / 60:.2g} minutes"
