# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The stages set keys that the bundles have, agree on the network, and compare like with like."""

from __future__ import annotations

import pytest
from monai.bundle import ConfigParser

from monai_essa.bundling.folder import bundle_folder
from monai_essa.demo.stages import DemoPlan
from monai_essa.study.stages import Stage

NETWORK = ("spacing", "in_channels", "img_size", "hidden_size", "mlp_dim", "num_heads")


def stages(plan: DemoPlan) -> list[Stage]:
    segmentation = plan.segmentations()[0]
    return [*plan.training(), plan.evaluation(segmentation), plan.prediction(segmentation, "scan.nii.gz", "prediction")]


@pytest.mark.parametrize("number", range(7))
def test_every_key_is_one_of_the_bundle(plan: DemoPlan, number: int) -> None:
    stage = stages(plan)[number]
    parser = ConfigParser()
    parser.read_config([bundle_folder(stage.bundle) / "configs" / name for name in stage.configs])

    unknown = [key for key in stage.values if key not in parser]
    assert unknown == (["load#0#reader"] if stage.name == "prediction" else [])


def test_all_stages_agree_on_network_images_and_seed(plan: DemoPlan) -> None:
    first = plan.pretraining()

    assert first.values["in_channels"] == 2
    for stage in stages(plan):
        assert [stage.values[key] for key in NETWORK] == [first.values[key] for key in NETWORK]
        assert "intensity_ct.yaml" in stage.configs
    assert {stage.values["seed"] for stage in plan.training()} == {3}


def test_the_segmentations_differ_in_their_start_only(plan: DemoPlan) -> None:
    start = ("start", "pretrained", "adapter", "output_dir")
    rest = [{key: value for key, value in stage.values.items() if key not in start} for stage in plan.segmentations()]

    assert rest[0] == rest[1] == rest[2]
    assert [stage.values.get("start", "random") for stage in plan.segmentations()] == ["adapter", "encoder", "random"]


def test_each_run_has_a_folder_of_its_own(plan: DemoPlan) -> None:
    folders = [stage.values["output_dir"] for stage in plan.training()]

    assert folders == [str(plan.output / stage.name) for stage in plan.training()]
    assert len(set(folders)) == len(folders)


def test_only_the_evaluation_sees_the_test_section(plan: DemoPlan) -> None:
    for stage in plan.training():
        assert "test" not in (stage.values["section"], stage.values.get("validation_section"))
    evaluation = plan.evaluation(plan.segmentations()[0])
    assert evaluation.values["validation_section"] == "test"
    assert evaluation.values["output_dir"] == plan.segmentations()[0].values["output_dir"]
