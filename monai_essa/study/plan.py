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
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from monai_essa.files import write_text_whole
from monai_essa.planning.networks import (
    Network,
    check_depth,
    check_sides,
    given_images,
    given_network,
    images_for,
    network_ladder,
)
from monai_essa.planning.objectives import check_network, objective_notes
from monai_essa.planning.overlay import described_network
from monai_essa.study.arms import ARMS, CHECK_OF_RATES, Arm, StudyDesign
from monai_essa.study.hours import STEPS, Memory, Work, default_sizes, fitting_sizes, measure, network_work
from monai_essa.study.splits import TRIED_FROM
from monai_essa.study.stages import Timings, quiet_libraries
from monai_essa.study.terms.draft import Draft, Surroundings
from monai_essa.study.terms.listing import MULTIPLIERS, listed_stages, refit_stages, training_steps
from monai_essa.study.terms.partition import Fold, Partition, Scan, partition_sections
from monai_essa.study.terms.request import Preset, StudyRequest

__all__ = ["draft_study"]

_LEAST_REPEATS = 3
# On labels: the fewest with which a network of docs/studies has learned. A UNETR may know one of two classes after 120.
_LEAST_STEPS = {"segmentation": 240, "classification": 80}
_GOOD_STEPS = 240  # on labels: what docs/studies trained for
_CORE = 2  # arms that a study cannot do without
_USED = 0.9  # of the hours; the rest is for the verdict, the report and the other users of the computer
_CACHE_SHARE = 0.25  # of the computer's memory
_SIZES = {"hidden_size", "mlp_dim", "num_heads"}  # of a ViT; the ladder of networks differs in them
_MAP_BYTES = 0.05  # of a voxel of a compressed label map
_FEW = 3  # scans, or images of a class, that the times are measured on


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
        steps = fitting.most_steps(design, timings, _Extent((), 1, 0), begin)
        return fitting.draft(design, timings, memory, _Extent((), 1, steps), [], notes)
    chosen = fitting.option(design, timings, arms, begin)
    cut = [arm for arm in arms if arm not in chosen.arms]
    lost = [f"{count} labels" for count in around.parts.further if count not in chosen.further]
    names = [*(arm.name for arm in cut), *lost]
    dropped += [{"name": name, "reason": f"--hours {request.hours:g} is too short for it"} for name in names]
    draft = fitting.draft(design, timings, memory, chosen, dropped, notes)
    return replace(draft, rates=_said_of_rates(request, around, chosen))


@dataclass(frozen=True)
class _Extent:
    """How much of a study is done.

    Attributes:
        arms: that remain.
        repeats: of the study.
        steps: on labels.
        trials: whether learning rates are tried.
        further: numbers of labelled patients that are tested beside that of the verdict.
    """

    arms: Sequence[Arm]
    repeats: int
    steps: int
    trials: bool = False
    further: tuple[int, ...] = ()


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
        extent = _Extent(arms, len(self.around.parts.repeats), preset.steps)
        return self.draft(design, preset.timings, None, extent, [], [])

    def network(self, begin: float) -> tuple[StudyDesign, Timings, Memory, list[str]]:
        """Choose the network, with its sizes, its times and what was refused."""
        designs = self._designs()
        tqdm.write(f"planning: what a step takes of the memory, of at most {len(designs)} networks")
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
            wanted = _Extent(ARMS[: _CORE + 1], len(self.around.parts.repeats), _GOOD_STEPS)
            needed = self._seconds(design, timings, wanted)
            if needed > self._budget(begin):
                return self._refusal(design.network, needed), None
            if not fitted:
                try:
                    design, memory = fitting_sizes(design, self.around.computer.budget)
                except ValueError as error:
                    return str(error), None
        return "", (design, timings, memory)

    def option(self, design: StudyDesign, timings: Timings, arms: Sequence[Arm], begin: float) -> _Extent:
        """Return the arms, repeats and steps that fit, and whether rates are tried."""
        least = 0.0
        tried, parts = _rates_are_tried(self.request, self.around), self.around.parts
        for option in _options(arms, len(parts.repeats), tried, parts.further):
            least = self._seconds(design, timings, option)
            if least <= self._budget(begin):
                most = self.most_steps(design, timings, option, begin) if option.steps == _GOOD_STEPS else 0
                return replace(option, steps=max(option.steps, most))
        needed = self._seconds(design, timings, _Extent(arms[:_CORE], _LEAST_REPEATS, _GOOD_STEPS))
        raise ValueError(
            f"--hours {self.request.hours:g} is too short: with {design.network.name} a single repeat of "
            f"{STEPS[0]} steps takes about {_hours(least)}, and a study of {_LEAST_REPEATS} repeats and {_GOOD_STEPS} "
            f"steps about {_hours(needed)}; give more --hours"
            + ("" if self.request.pretrained is None else ", or leave --pretrained out for a smaller network")
        )

    def most_steps(self, design: StudyDesign, timings: Timings, extent: _Extent, begin: float) -> int:
        """Return the most steps that fit, the fewest there are if none do."""
        seconds = {steps: self._seconds(design, timings, replace(extent, steps=steps)) for steps in STEPS}
        return max((steps for steps in STEPS if seconds[steps] <= self._budget(begin)), default=STEPS[0])

    def draft(
        self,
        design: StudyDesign,
        timings: Timings,
        memory: Memory | None,
        chosen: _Extent,
        dropped: Sequence[Mapping[str, str]],
        notes: Sequence[str],
    ) -> Draft:
        """List the stages of what was chosen."""
        arms, repeats = chosen.arms, chosen.repeats
        parts = self._parts(chosen)
        design = _with_steps(design, timings, chosen.steps)
        notes = [*notes, *objective_notes(self.request.objective, self.request.pretrained)]
        provisional = None if self.request.preset is None else self.request.preset.reason
        if provisional is None and arms and repeats < _LEAST_REPEATS:
            provisional = f"{repeats} repeat: the hours are too short for the {_LEAST_REPEATS} that a verdict needs"
        stages = listed_stages(design, timings, arms, parts, chosen.trials)
        taken = min((training_steps(stage) for planned, stage in stages if planned.kind == "train"), default=0)
        least = _LEAST_STEPS[design.task]
        if provisional is None and arms and taken < least:
            provisional = f"{taken} steps of training: a network that has learned needs {least}; give more hours"
        stages += refit_stages(design, timings, arms, parts.refit) if arms else []
        return Draft(
            design, arms, dropped, parts, stages, memory, provisional, notes, map_bytes=self._map_bytes(design)
        )

    def _map_bytes(self, design: StudyDesign) -> float:
        """Return about what a compressed label map of a median scan takes."""
        facts = self.around.facts
        voxels = math.prod(length / step for length, step in zip(facts.extent, facts.spacing, strict=True))
        return _MAP_BYTES * voxels if design.task == "segmentation" else 0.0

    def _designs(self) -> list[StudyDesign]:
        """Return a design for each network in question, from large to small."""
        task, facts = self.around.site.task or "segmentation", self.around.facts
        networks: Sequence[Network] = network_ladder(task, facts.spatial_dims)
        if self.request.overlay is not None and self.request.overlay.describes:
            networks = [described_network(self.request.overlay, self.request.values)]
        elif self.request.pretrained is not None:
            networks = [given_network(self.request.pretrained)]
        elif _SIZES & self.request.values.keys():
            networks = [replace(networks[-1], name="a ViT of the given sizes")]
        return [self._design(task, network) for network in networks]

    def _design(self, task: str, network: Network) -> StudyDesign:
        site = self.around.site
        labels = site.classes or {"background": 0, "foreground": 1}
        check_depth(task, network, self.request.values)
        images = given_images(images_for(task, self.around.facts, network, labels, site.several), self.request.values)
        check_sides(network, images)
        voxels = math.prod(math.ceil(length) for length in self.around.facts.extent) * images.in_channels
        if images.spacing is not None:
            voxels = int(voxels / math.prod(images.spacing))
        large = 5 * voxels * len(site.scans) > _CACHE_SHARE * self.around.computer.ram
        sizes = {
            "cache_dir": str(self.around.folder / "cache") if large else None,
            "ssa_share": 1.0,
            "patients": _learned_from(self.around.parts.repeats[0][0]),
        }
        check_network(self.request.objective, network.kind)
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
            overlays=self.around.overlays,
            objective=self.request.objective,
        )

    def _first_that_fits(self, designs: Sequence[StudyDesign]) -> tuple[StudyDesign, Memory]:
        for design in designs[:-1]:
            try:
                return fitting_sizes(design, self.around.computer.budget)
            except ValueError:
                continue
        return fitting_sizes(designs[-1], self.around.computer.budget)

    def _seconds(self, design: StudyDesign, timings: Timings, extent: _Extent) -> float:
        """Return the seconds of a study, and of training once more on all labels what is exported."""
        design, parts = _with_steps(design, timings, extent.steps), self._parts(extent)
        listed = listed_stages(design, timings, extent.arms, parts, extent.trials)
        refit = refit_stages(design, timings, extent.arms[:1], parts.refit) if extent.arms else []
        return sum(planned.seconds for planned, _ in (*listed, *refit))

    def _parts(self, extent: _Extent) -> Partition:
        parts, kept = self.around.parts, set(extent.further)
        repeats = [
            tuple(replace(fold, further={n: fold.further[n] for n in fold.further if n in kept}) for fold in folds)
            for folds in parts.repeats[: extent.repeats]
        ]
        return replace(parts, repeats=tuple(repeats))

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
    if around.parts.repeats and _patients(around.parts.repeats[0][0].training) >= TRIED_FROM:
        reason = f"from {TRIED_FROM} labelled patients on the defaults are not checked at a third of the rate"
        left_out += [{"name": name, "reason": reason} for name in CHECK_OF_RATES]
    names = {each["name"] for each in left_out}
    return [arm for arm in ARMS if arm.name not in names], left_out


def _options(arms: Sequence[Arm], repeats: int, trials: bool, further: Sequence[int] = ()) -> Iterator[_Extent]:
    """Yield what is done, from most to least: arms go first, then trials, further labels, repeats and steps."""
    for tried in (True, False) if trials else (False,):
        for count in range(len(arms), _CORE - (not tried), -1):
            if not (arms[count - 1].name == CHECK_OF_RATES[0]):  # the two are together or not at all
                yield _Extent(arms[:count], repeats, _GOOD_STEPS, tried, tuple(further))
    for count in range(len(further) - 1, -1, -1):
        yield _Extent(arms[:_CORE], repeats, _GOOD_STEPS, False, tuple(further[:count]))
    for fewer in range(repeats - 1, _LEAST_REPEATS - 1, -1):
        yield _Extent(arms[:_CORE], fewer, _GOOD_STEPS)
    shorter = [steps for steps in reversed(STEPS) if steps < _GOOD_STEPS]
    for steps in shorter:
        yield _Extent(arms[:_CORE], min(repeats, _LEAST_REPEATS), steps)
    for steps in (_GOOD_STEPS, *shorter):
        yield _Extent(arms[:_CORE], 1, steps)


def _rates_are_tried(request: StudyRequest, around: Surroundings) -> bool:
    """Tell whether rates can be tried: some patients are never tested, and the user has set no rate."""
    return around.parts.trial is not None and "lr" not in request.values


def _said_of_rates(request: StudyRequest, around: Surroundings, chosen: _Extent) -> str:
    """Say on whom rates are tried, or why none is although the labels are many."""
    trial = around.parts.trial
    if _patients(around.parts.repeats[0][0].training) < TRIED_FROM:
        return ""
    if chosen.trials and trial is not None:
        return (
            f"The learning rate of each arm is the best of {len(MULTIPLIERS)}, tried with {_patients(trial.training)} "
            f"labelled patients and scored on {_patients(trial.test)} others, who are never tested."
        )
    if "lr" in request.values:
        return "No learning rate was tried, since lr was given."
    if trial is None:
        return "No learning rate was tried: every labelled patient is tested, so that none is left to try it on."
    return f"No learning rate was tried: --hours {request.hours:g} is too short for {len(MULTIPLIERS)} of each arm."


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
    unlabelled = _FEW if design.objective is None else 3 * design.sizes["pretext_batch"]
    few = Fold(_few(fold.training), _few(fold.test), fold.unlabeled[:unlabelled])
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


def _learned_from(fold: Fold) -> int:
    """Return the number of patients that SSA learns from: all but each tenth."""
    patients = _patients(fold.unlabeled)
    return patients - -(-patients // 10)


def _patients(scans: Sequence[Scan]) -> int:
    return len({scan.patient for scan in scans})


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2g} hours" if seconds >= 5400 else f"{seconds / 60:.2g} minutes"
