"""Every recipe and every option on MindSpore's own Ascend backend, which runs here on a stand-in for CANN.

    pytest tests/ascend -m "not slow"                      # a representative part, three minutes on two idle cores
    pytest tests/ascend -m "slow or not slow"              # all of it, an hour

Kernels compute nothing there (stand_in.py): what is tested is what compiles, which kernels it has and when callbacks
are called. docs/ASCEND.md has the findings that these tests hold.
"""

from __future__ import annotations

import json
import re

import pytest

from tests.ascend.cases import CHECKPOINT, RECIPES, VARIATIONS
from tests.ascend.kernels import run
from tests.ascend.table import columns_of, documented

# The one that also runs by default.
FIRST = "v1_0"
# What a device is fed at a time, so that checkpoints, Ctrl-C and NaN keep their meaning.
MOST_STEPS_UNSEEN = 100
SIGTERM = 143
_GRAPHS = [name for name, variation in VARIATIONS.items() if variation.is_graph]


def variations(names=VARIATIONS):
    """Return the parameters of a test, those outside the quick part slow."""
    return _parameters(names, [n for n in VARIATIONS if VARIATIONS[n].quick])


def recipes():
    """Return the parameters of a test of recipes likewise."""
    return _parameters(RECIPES, ["digits"])


def _parameters(names, quick):
    beyond = {name: pytest.mark.thorough if name in quick else pytest.mark.slow for name in names if name != FIRST}
    return [pytest.param(name, marks=beyond.get(name, ())) for name in names]


def row_of(name: str) -> tuple[int, ...]:
    """Return the counts of a step in docs/ASCEND.md; a test whose step has none there is skipped."""
    if name not in documented():
        pytest.skip("docs/ASCEND.md has no row of this step")
    return documented()[name]


@pytest.mark.parametrize("name", variations())
def test_a_variation_trains_and_saves(runs, name):
    done = runs.variation(name)
    assert done.status == 0, done.errors
    assert (runs.run_folder(name) / "run" / "result.json").is_file()
    assert [entry.name for entry in runs.run_folder(name).iterdir()] == ["run"]


@pytest.mark.parametrize("name", variations())
def test_callbacks_come_at_every_step_or_each_time_the_device_is_fed(runs, name):
    done = runs.variation(name)
    [train] = done.called("train")
    assert train["sink"] == ("not sunk" not in name)
    size = train["sink_size"] if train["sink"] and VARIATIONS[name].is_graph else 1
    assert [e["step"] for e in done.called("step_end")] == list(range(size, 2 * train["batches"] + 1, size))
    assert {train["batches"], 2 * train["batches"]} <= {e["step"] for e in done.called("epoch_end")}


@pytest.mark.parametrize("name", variations(_GRAPHS))
def test_no_operator_of_a_variation_runs_on_the_ai_cpu(runs, name):
    assert not runs.variation(name).step.on_ai_cpu


@pytest.mark.parametrize("name", variations(_GRAPHS))
def test_a_variation_has_the_kernels_of_the_table(runs, name):
    assert columns_of(runs.variation(name).step) == row_of(name)


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_is_interrupted_and_resumed_evaluated_and_exported(runs, name):
    interrupted = runs.recipe(name)
    assert interrupted.status == SIGTERM, interrupted.errors
    resumed, evaluated, exported = runs.resumed(name)
    assert resumed.status == 0, resumed.errors
    result = json.loads((runs.run_folder(name, 1) / "run" / "result.json").read_text())
    batches = interrupted.called("train")[0]["batches"]
    assert (result["steps"], result["resumed_at_steps"]) == (2 * batches, [interrupted.called("step_end")[-1]["step"]])
    assert resumed.called("step_end")[-1]["step"] == 2 * batches
    assert evaluated.status == 0, evaluated.errors
    assert re.search(r" \d+ images: top-1 ", evaluated.stdout)
    assert exported.status == 0, exported.errors
    assert (runs.run_folder(name, 1) / "run" / "squeezenet.mindir").is_file()


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_has_the_kernels_of_the_table(runs, name):
    assert columns_of(runs.recipe(name).step) == row_of(name)


@pytest.mark.parametrize("name", recipes())
def test_no_operator_of_a_recipe_runs_on_the_ai_cpu(runs, name):
    assert not runs.recipe(name).step.on_ai_cpu


@pytest.mark.thorough
def test_an_evaluation_is_one_graph_and_not_sunk(runs):
    """Neither the validation images nor the test images are a whole number of batches."""
    [resumed, *_] = runs.resumed("digits")
    assert [(e["sink"], e["batches"]) for e in resumed.called("eval")] == [(False, 5), (False, 12)]
    assert len([graph for graph in resumed.graphs if graph.phase == "eval"]) == 2


@pytest.mark.slow
def test_callbacks_come_every_hundred_steps_at_least(runs):
    done = runs.recipe("digits", "--batch_size", 4)
    assert done.called("train")[0]["batches"] > MOST_STEPS_UNSEEN
    assert done.called("step_end")[0]["step"] <= MOST_STEPS_UNSEEN


@pytest.mark.slow
@pytest.mark.parametrize("name, scaled", [("O1", False), ("O2 scaled", True), ("O2", True), ("O3 scaled", True)])
def test_updates_that_overflow_are_left_out_where_the_loss_is_scaled(runs, name, scaled):
    operators = runs.variation(name).step.operators
    assert any("Finite" in operator for operator in operators) == scaled
    assert ("ConditionSwitch" in operators) == scaled


def test_a_step_of_v1_0_has_at_most_250_kernels(runs):
    assert runs.variation("v1_0").step.count <= 250


@pytest.mark.slow
def test_a_step_of_the_default_recipe_has_at_most_250_kernels(runs):
    assert runs.recipe("cifar10").step.count <= 250


@pytest.mark.thorough
def test_a_step_of_muon_on_the_wide_net_has_at_most_400_kernels(runs):
    assert runs.variation("cifar_wide muon").step.count <= 400


@pytest.mark.thorough
def test_eight_devices_meet_once_a_step(runs):
    assert runs.variation("eight devices").step["AllReduce"] == 1


@pytest.mark.thorough
def test_the_summary_does_not_compute_on_the_device(runs):
    assert not runs.recipe("digits").eager["Conv2D"]


@pytest.mark.thorough
def test_a_compression_trains_twice_and_not_on_the_ai_cpu(runs):
    runs.resumed("digits")
    how = {"sparsity": 0.6, "bits": 3, "train_epochs": 1, "centroid_epochs": 1, "distillation": 0.5}
    images = {"dataset": "digits", "train_images": 64, "train_batch_size": 16, "eval_images": 20, "output_path": "out"}
    flags = [word for key, value in {**how, **images}.items() for word in (f"--{key}", value)]
    [done] = run([("compress.py", f"run/{CHECKPOINT}", *flags)], runs.run_folder("digits", 1))
    assert done.status == 0, done.errors
    steps = [graph.kernels for graph in done.graphs if graph.network == "ConstrainedStep"]
    assert len(steps) == 2 and not any(step.on_ai_cpu for step in steps)


@pytest.mark.slow
def test_a_network_that_resizes_exports_products_that_can_be_converted(runs):
    """MindSpore Lite converts MatMulExt for fixed shapes only."""
    runs.variation("device mixup")
    [exported] = run(
        [("export.py", "--ckpt_path", f"run/{CHECKPOINT}", "--uint8_input")], runs.run_folder("device mixup")
    )
    assert exported.status == 0, exported.errors
    assert exported.graphs and not any(graph.kernels["MatMulExt"] for graph in exported.graphs)
