# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Commands on files and options that nobody meant: one line and exit code 1 or 2, and what was there before stays.

What trains for long on good files is called with bad ones only.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from monai.networks.nets import ViT

from monai_essa import adapt, save_adapter
from monai_essa.bundling.folder import bundle_folder
from monai_essa.cli import main
from monai_essa.methods import APLA
from tests.fuzz.hostile_values import MARKER, Draw, damaged, edited, texts
from tests.fuzz.profiles import guarded, inputs

SMALL = {"_target_": "ViT", "in_channels": 1, "img_size": [16, 16], "patch_size": 8, "hidden_size": 12, "mlp_dim": 24}
SMALL |= {"num_layers": 2, "num_heads": 2, "spatial_dims": 2}
BAD = ("missing", "missing/deeper", "empty", "bytes.nii", "cut.nii.gz", "words.json", "list.json", "number.yaml")
BAD += ("nothing", "words", "pipe.nii.gz", "loop", "away", "planted.pt", "", ".", "..", "/dev/null", "/dev/zero", "~")
BAD += ("$x.nii.gz", "@network.nii.gz", "\udcff.nii.gz", "line\nbreak.nii.gz")
GOOD = ("scans", "scans/dataset.json", "scans/p0.nii.gz", "adapter.safetensors", "vit.pt", "net.yaml", "bundle")
EARLIER = ("earlier/my_site.yaml", "earlier/model.pt", "earlier/masks", "earlier/dataset.json", "earlier", "scans")


@dataclass(frozen=True)
class Call:
    """A command, and whether some file that it needs is a bad one: it then must not succeed."""

    arguments: list[str]
    hopeless: bool


def scans(folder: Path) -> None:
    folder.mkdir()
    rng, items = np.random.default_rng(0), []
    for number in range(3):
        item = {"image": f"p{number}.nii.gz", "label": f"p{number}_seg.nii.gz"}
        voxels = rng.integers(-1000, 1000, (6, 5, 4), dtype=np.int16)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / item["image"])
        nib.save(nib.Nifti1Image((voxels > 0).astype(np.uint8), np.eye(4)), folder / item["label"])
        items.append(item)
    listed = {"labels": {"0": "background", "1": "spleen"}, "training": items[:2], "validation": items[2:]}
    (folder / "dataset.json").write_text(json.dumps(listed), encoding="utf-8")


def good_files(folder: Path) -> None:
    scans(folder / "scans")
    torch.manual_seed(0)
    network = ViT(1, [16, 16], 8, hidden_size=12, mlp_dim=24, num_layers=2, num_heads=2, spatial_dims=2)
    torch.save(network.state_dict(), folder / "vit.pt")
    save_adapter(adapt(network, APLA(columns=2)), folder / "adapter.safetensors")
    (folder / "net.yaml").write_text(yaml.safe_dump({"network_def": SMALL}), encoding="utf-8")
    shutil.copytree(bundle_folder("essa_segmentation"), folder / "bundle", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "run" / "test").mkdir(parents=True)
    (folder / "run" / "test" / "dice_raw.csv").write_text("filename,class0,mean\na.nii,0.5,0.5\n", encoding="utf-8")
    (folder / "bundle" / "models").mkdir(exist_ok=True)
    shutil.copy(folder / "vit.pt", folder / "bundle" / "models" / "model.pt")


def bad_files(folder: Path) -> None:
    (folder / "empty").touch()
    (folder / "nothing").mkdir()
    (folder / "words").mkdir()
    (folder / "words" / "notes.txt").write_text("no scan", encoding="utf-8")
    (folder / "bytes.nii").write_bytes(bytes(range(256)) * 3)
    (folder / "cut.nii.gz").write_bytes((folder / "scans" / "p0.nii.gz").read_bytes()[:60])
    (folder / "words.json").write_text("{'training': ", encoding="utf-8")
    (folder / "list.json").write_text("[1, 2]", encoding="utf-8")
    (folder / "number.yaml").write_text("3", encoding="utf-8")
    (folder / "planted.pt").write_bytes(pickle.dumps({"a": Planted()}))
    os.mkfifo(folder / "pipe.nii.gz")
    (folder / "loop").symlink_to("loop")
    (folder / "away").symlink_to("/etc")
    for name in ("$x.nii.gz", "@network.nii.gz", "\udcff.nii.gz", "line\nbreak.nii.gz"):
        (folder / name).write_bytes(b"no image")


class Planted:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> object:
        return os.system, (f"touch {MARKER}",)


def earlier_outputs(folder: Path) -> None:
    (folder / "earlier" / "masks").mkdir(parents=True)
    for name in ("my_site.yaml", "model.pt", "dataset.json", "masks/p0_seg.nii.gz", "adapter.safetensors", ".x.part"):
        (folder / "earlier" / name).write_text(f"mine: {name}", encoding="utf-8")


@pytest.fixture
def place(scratch: Path) -> Path:
    """The scratch folder with good files, bad ones, and the outputs of earlier commands."""
    good_files(scratch)
    bad_files(scratch)
    earlier_outputs(scratch)
    return scratch


def everything(folder: Path) -> dict[str, bytes | str]:
    """The content of every file, and where each link leads."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            found[str(path)] = os.readlink(path) if path.is_symlink() else "no file"
        else:
            found[str(path)] = path.read_bytes()
    return found


def restore(folder: Path, before: dict[str, bytes | str]) -> None:
    """Remove what came since, and write again what changed, so that the next input finds the same."""
    after = everything(folder)
    for name in sorted(after.keys() - before.keys()):
        path = Path(name)
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    for name, content in before.items():
        if isinstance(content, bytes) and after.get(name) != content:
            Path(name).write_bytes(content)


def options(draw: Draw, values: dict[str, st.SearchStrategy[str]]) -> list[str]:
    """A few options, each with a value."""
    names = draw(st.lists(st.sampled_from(sorted(values)), max_size=3, unique=True))
    return [part for name in names for part in (name, draw(values[name]))]


bad = st.sampled_from(BAD)
good = st.sampled_from(GOOD)
anything = bad | good | texts()
output = st.sampled_from([*EARLIER, "out/new", "out/new.json", "empty", "loop", "", "/dev/full/x", "nothing/../out/y"])
number = st.sampled_from(["0", "-1", "1e9", "nan", "inf", "x", "0x1", "8", "\u0663", "1_000", "9" * 400, ""])
plain = texts().filter(lambda text: not text.lstrip().startswith(("$", "@", "%")))
pair = st.builds("{}={}".format, texts() | st.sampled_from(["img_size", "network_def", "x#y"]), plain) | plain


def data_datalist(draw: Draw) -> Call:
    own = {"--labels": anything, "--out": output, "--fractions": plain, "--seed": number, "--pattern": texts()}
    own |= {"--patient-pattern": texts(), "--label-map": plain, "--group-by": texts(), "--label-pattern": texts()}
    images = draw(bad | st.just("scans"))
    return Call(["data", "datalist", images, *options(draw, own)], images not in ("scans", ".", "..", "away"))


def data_check(draw: Draw) -> Call:
    own = {"--section": texts(), "--base-dir": anything, "--label-map": plain, "--json": output}
    listed = draw(bad | st.just("scans/dataset.json"))
    return Call(["data", "check", listed, *options(draw, own)], listed != "scans/dataset.json")


def cost(draw: Draw) -> Call:
    """Always with a name that there is not."""
    own = {"--methods": texts(), "--lean": texts(), "--size": number, "--batch": number, "--out": output}
    wrong = draw(st.sampled_from(["--network", "--objective", "--precision"]))
    return Call(["cost", *options(draw, own), wrong, draw(texts())], True)


def plan(draw: Draw) -> Call:
    own = {"--memory": texts() | number, "--hours": number, "--out": output, "--stage": texts(), "--args": pair}
    own |= {"--network": texts(), "--pretrained": anything, "--adapter": anything}
    return Call(["plan", draw(bad.filter(lambda path: path not in (".", ".."))), *options(draw, own)], True)


def bundles_copy(draw: Draw) -> Call:
    own = {"--name": texts(), "--network": texts(), "--labels": anything, "--run": anything, "--args": pair}
    own |= {"--intensity": texts(), "--start": texts(), "--method": texts()}
    bundle = draw(bad | st.sampled_from(["bundle", "essa_ssa"]))
    destination = draw(output)
    return Call(["bundles", "copy", bundle, destination, *options(draw, own)], bundle not in ("bundle", "essa_ssa"))


def run(draw: Draw) -> Call:
    own = {"--config_file": bad | texts(), "--args_file": bad, "--meta_file": bad, "--dataset_dir": plain}
    dry = draw(st.sampled_from([["--dry-run"], []]))
    return Call(["run", *dry, *options(draw, own), "--config_file", draw(bad)], True)


def predict(draw: Draw) -> Call:
    wrong = draw(st.sampled_from(["--bundle", "--input", "--adapter", "none"]))
    values = {"--bundle": "bundle", "--input": "scans/p0.nii.gz", "--output": draw(output)}
    if wrong != "none":
        values[wrong] = draw(bad | texts())
    own = {"--section": texts(), "--base": anything, "--args": pair}
    arguments = ["predict", *(part for option in values.items() for part in option), *options(draw, own)]
    return Call(arguments, True)  # the weights of this bundle are those of another network


def is_here(path: str) -> bool:
    """Tell whether a path is the folder of the test: a folder that holds an adapter stands for it."""
    return os.path.normpath(path or ".") == "."


def adapter_info(draw: Draw) -> Call:
    file = draw(bad | texts())
    return Call(["adapter", "info", file], not is_here(file))


def adapter_diff(draw: Draw) -> Call:
    files = [draw(bad | texts()), draw(st.just("adapter.safetensors") | bad)]
    return Call(["adapter", "diff", *draw(st.permutations(files))], not any(map(is_here, files)))


def adapter_merge(draw: Draw) -> Call:
    values = {"--base": "vit.pt", "--config-file": "net.yaml", "--out": draw(output)}
    wrong = draw(st.sampled_from(["--base", "--config-file", "file"]))
    file = draw(bad) if wrong == "file" else "adapter.safetensors"
    if wrong != "file":
        values[wrong] = draw(bad)
    own = {"--base-prefix": texts(), "--base-grid": number, "--args": pair}
    arguments = ["adapter", "merge", file, *(part for option in values.items() for part in option), *options(draw, own)]
    return Call(arguments, not is_here(file))


def compare(draw: Draw) -> Call:
    """Of two arms, one of which is bad or has no scores."""
    own = {"--margin": number, "--out": output, "--datalist": anything}
    arm = st.builds("{}={}".format, texts(), anything) | anything
    arms = draw(st.permutations([draw(arm), draw(st.sampled_from(["run", "a=run", "a=run,run", "a=ru*"]))]))
    return Call(["compare", *options(draw, own), "--", *arms], True)


def label(draw: Draw) -> Call:
    if draw(st.booleans()):
        return Call(["label", "init", draw(output), "--bundle", draw(bad | texts())], True)
    own = {"--host": texts(), "--port": number, "--origin": texts()}
    return Call(["label", "start", draw(bad | texts()), "--studies", draw(anything), *options(draw, own)], True)


def demo(draw: Draw) -> Call:
    return Call(["demo", "--data", draw(bad), "--output", draw(output), *options(draw, {"--seed": number})], True)


def words(draw: Draw) -> Call:
    """Arguments in no order."""
    known = st.sampled_from(["data", "check", "adapter", "info", "bundles", "list", "--help", "--version", "label"])
    return Call(draw(st.lists(known | texts() | bad, max_size=5)), False)


COMMANDS: tuple[Callable[[Draw], Call], ...] = (
    *(data_datalist, data_check, cost, plan, bundles_copy, run, predict, adapter_info, adapter_diff, adapter_merge),
    *(compare, label, demo, words),
)


@contextlib.contextmanager
def streams() -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
    """Standard output and error as a terminal has them: the one refuses what UTF-8 does not hold."""
    out, err = io.BytesIO(), io.BytesIO()
    with (
        io.TextIOWrapper(out, "utf-8", "strict", write_through=True) as first,
        io.TextIOWrapper(err, "utf-8", "backslashreplace", write_through=True) as second,
        contextlib.redirect_stdout(first),
        contextlib.redirect_stderr(second),
    ):
        yield out, err
        first.flush()


def called(call: Call) -> tuple[int, str, str]:
    with streams() as (out, err):
        try:
            code = main(call.arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        return code, out.getvalue().decode(), err.getvalue().decode()


def assert_told(call: Call, code: int, out: str, err: str) -> None:
    """The exit code is one that is documented, and an error is said in one line."""
    assert "Traceback" not in out + err
    assert code in ((1, 2) if call.hopeless and "--help" not in call.arguments else (0, 1, 2)), out + err
    said = [line for line in err.splitlines() if line.startswith("monai-essa")]
    if code == 1 and not out:
        assert said and err.splitlines()[-1] == said[-1], err
    if code:
        assert len(said) <= 1, err


@pytest.mark.skipif(os.name == "nt", reason="Windows has neither such names of files nor FIFOs")
@inputs(150)
@given(data=st.data())
def test_a_command_fails_in_one_line_and_leaves_the_rest(data: st.DataObject, place: Path) -> None:
    call = COMMANDS[data.draw(st.integers(0, len(COMMANDS) - 1))](data.draw)
    before = everything(place)
    try:
        with guarded():
            code, out, err = called(call)
        assert_told(call, code, out, err)
        after = everything(place)
        assert {path: after.get(path) for path in before} == before
        if call.hopeless and code:
            assert not [path for path in after if path not in before and Path(path).is_file()]
    finally:
        restore(place, before)


@inputs(30)
@given(data=st.data())
def test_data_check_of_a_changed_list_reports_and_changes_nothing(data: st.DataObject, place: Path) -> None:
    path = place / "scans" / "dataset.json"
    original = path.read_bytes()
    kept = json.loads(original)
    new = damaged(data.draw, original) if data.draw(st.booleans()) else json.dumps(edited(data.draw, kept)).encode()
    path.write_bytes(new)
    before = everything(place)
    try:
        call = Call(["data", "check", str(path)], False)
        with guarded():
            assert_told(call, *called(call))
        assert everything(place) == before
    finally:
        path.write_bytes(original)


SCORES = {
    "test/dice_raw.csv": b"filename,class0,class1,mean\n/a/p1.nii,0.5,nan,0.5\n/a/p2.nii,0.25,1.0,0.625\n",
    "test/predictions.csv": b"image,label,no,yes\n/a/p1.png,yes,0.25,0.75\n/a/p2.png,no,0.5,0.5\n",
    "run.json": b'{"seed": 0, "status": "finished", "config": {}}',
}


@inputs(60)
@given(data=st.data())
def test_compare_of_a_changed_table_reports_and_changes_nothing(data: st.DataObject, place: Path) -> None:
    name = data.draw(st.sampled_from(sorted(SCORES)))
    scores = "test/predictions.csv" if name == "test/predictions.csv" else "test/dice_raw.csv"
    for run in ("a", "b"):
        (place / run / "test").mkdir(parents=True, exist_ok=True)
        for part in {scores, "run.json"}:
            (place / run / part).write_bytes(SCORES[part])
    (place / "b" / name).write_bytes(damaged(data.draw, SCORES[name]))
    before = everything(place)
    try:
        call = Call(["compare", "a", "b", "--out", "out.json"], False)
        with guarded():
            code, out, err = called(call)
        assert_told(call, code, out, err)
        after = everything(place)
        assert {path: after.get(path) for path in before} == before
        assert (code == 0) == ("out.json" in {Path(path).name for path in after})
    finally:
        shutil.rmtree(place / "a"), shutil.rmtree(place / "b")
        (place / "out.json").unlink(missing_ok=True)


BUNDLE_FILES = ("metadata.json", "inference.yaml", "train.yaml", "start_bundle.yaml", "method_apla.yaml")
BUNDLE_COMMANDS = (
    ["label", "init", "out/app", "--bundle", "bundle"],
    ["bundles", "copy", "bundle", "out", "--name", "mine"],
    ["predict", "--bundle", "bundle", "--input", "scans/p0.nii.gz", "--output", "out/masks"],
    ["adapter", "merge", "adapter.safetensors", "--base", "vit.pt", "--bundle", "bundle", "--out", "out/model.pt"],
)


@inputs(12)
@given(data=st.data())
def test_a_bundle_with_a_broken_file_is_named(data: st.DataObject, place: Path) -> None:
    """Configs are code, so nothing is planted; but a file that was cut off or mixed up is no reason for a traceback."""
    before = everything(place)
    path = place / "bundle" / "configs" / data.draw(st.sampled_from(BUNDLE_FILES))
    whole = path.read_bytes()
    other = data.draw(st.sampled_from([b"", b"[]", b"3", b"{}", b"null", b'{"task": 3}', b"a: [", b"\xff\xfe", b"\t:"]))
    path.write_bytes(other if data.draw(st.booleans()) else whole[: data.draw(st.integers(0, len(whole)))])
    try:
        call = Call(data.draw(st.sampled_from(BUNDLE_COMMANDS)), False)
        with guarded():
            code, out, err = called(call)
        assert_told(call, code, out, err)
        after = everything(place)
        assert all(after.get(name) == content for name, content in before.items() if name != str(path))
    finally:
        restore(place, before)
