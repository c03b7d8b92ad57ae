"""Every recipe and every option on MindSpore's own Ascend backend, which runs here on a stand-in for CANN.

    pytest tests/ascend                                    # a representative part, three minutes on two idle cores
    pytest tests/ascend -m "slow or not slow"              # all of it, an hour

Kernels compute nothing there (stand_in.py): what is tested is what compiles, which kernels it has and when callbacks
are called. What is known to be wrong is marked with the number of its finding, and a test that passes again
fails, to have the mark removed.
"""

from __future__ import annotations

import json
import re

import pytest

from tests.ascend.cases import CHECKPOINT, RECIPES, STARTS_FROM, VARIATIONS
from tests.ascend.kernels import run
from tests.ascend.table import columns_of, documented

# Left out by default and in continuous integration.
SLOW = (pytest.mark.slow, pytest.mark.long)
# Steps between two calls of callbacks, so that checkpoints, Ctrl-C and NaN keep their meaning.
MOST_STEPS_UNSEEN = 100
SIGTERM = 143


def finding(number: int, why: str):
    """Mark what fails because of a finding that is not mended yet."""
    return pytest.mark.xfail(strict=True, reason=f"finding {number}: {why}")


_O1 = finding(3, "amp rewrites a return annotation into a name that is not there")
_HALF_MATRIX = finding(2, "the matrices that resize become float16, and the images are float32")
_COMPILES = {"O1": _O1, "device O1": _O1, "device O2": _HALF_MATRIX, "device O3": _HALF_MATRIX}
_AI_CPU = finding(12, "dropout shifts integers on the AI CPU")
_NO_DROPOUT = ("no dropout", "cifar_wide muon", "O2 muon", "eight devices muon")
_GRAPHS = [n for n in VARIATIONS if n not in _COMPILES and VARIATIONS[n].is_graph]
_RECIPES_WITHOUT_DROPOUT = ("cifar10_fast", "cifar10_wide", *STARTS_FROM)


def variations(known=None, names=VARIATIONS):
    """Return the parameters of a test, those outside the quick part slow, with the marks that are known by name."""
    return _parameters(names, [n for n in VARIATIONS if VARIATIONS[n].quick], known or {})


def recipes(known=None):
    """Return the parameters of a test of recipes likewise."""
    return _parameters(RECIPES, ["digits"], known or {})


def _parameters(names, quick, known):
    marks = {name: [] if name in quick else SLOW for name in names}
    return [pytest.param(name, marks=[*marks[name], *([known[name]] if name in known else [])]) for name in names]


@pytest.mark.parametrize("name", variations(_COMPILES))
def test_a_variation_trains_and_saves(runs, name):
    done = runs.variation(name)
    assert done.status == 0, done.errors
    assert (runs.run_folder(name) / "run" / "result.json").is_file()
    assert not (runs.run_folder(name) / "rewritten_network").exists()


@pytest.mark.parametrize("name", variations(names=[n for n in VARIATIONS if n not in _COMPILES]))
def test_callbacks_come_at_every_step_or_where_the_device_was_fed_so_far(runs, name):
    done = runs.variation(name)
    [train] = done.called("train")
    assert train["sink"] == (name not in ("not sunk", "not sunk O2", "eight devices not sunk", "on_nan skip"))
    sunk = train["batches"] if train["sink_size"] == -1 else train["sink_size"]
    size = sunk if train["sink"] and VARIATIONS[name].is_graph else 1
    assert [e["step"] for e in done.called("step_end")] == list(range(size, 2 * train["batches"] + 1, size))
    assert [e["step"] for e in done.called("epoch_end")] == [train["batches"], 2 * train["batches"]]


@pytest.mark.parametrize("name", variations({n: _AI_CPU for n in VARIATIONS if n not in _NO_DROPOUT}, _GRAPHS))
def test_no_operator_of_a_variation_runs_on_the_ai_cpu(runs, name):
    assert not runs.variation(name).step.on_ai_cpu


@pytest.mark.parametrize("name", variations(names=_GRAPHS))
def test_a_variation_has_the_kernels_of_the_table(runs, name):
    assert columns_of(runs.variation(name).step) == documented()[name]


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
    assert columns_of(runs.recipe(name).step) == documented()[name]


@pytest.mark.parametrize("name", recipes({n: _AI_CPU for n in RECIPES if n not in _RECIPES_WITHOUT_DROPOUT}))
def test_no_operator_of_a_recipe_runs_on_the_ai_cpu(runs, name):
    assert not runs.recipe(name).step.on_ai_cpu


@finding(1, "an evaluation has a last batch of another size, which is a graph of its own, and in sink mode never fits")
def test_an_evaluation_is_one_graph_and_not_sunk(runs):
    resumed, evaluated, _ = runs.resumed("digits")
    assert not any(e["sink"] for e in resumed.called("eval"))
    assert len([graph for graph in evaluated.graphs if graph.phase == "eval"]) == 1


@finding(7, "in sink mode callbacks are called once an epoch")
@pytest.mark.slow
@pytest.mark.long
def test_callbacks_come_every_hundred_steps_at_least(runs):
    done = runs.recipe("digits", "--batch_size", 4)
    assert done.called("train")[0]["batches"] > MOST_STEPS_UNSEEN
    assert done.called("step_end")[0]["step"] <= MOST_STEPS_UNSEEN


@finding(9, "amp's O2 brings a dynamic loss scale of its own, whatever the configuration says")
@pytest.mark.slow
@pytest.mark.long
def test_the_loss_scale_is_that_of_the_configuration(runs):
    finite = {"IsFinite", "AllFinite"}
    assert runs.variation("O2 dynamic").step.operators & finite
    assert not runs.variation("O2").step.operators & finite


@finding(13, "each weight and each bias has an AllReduce of its own")
def test_eight_devices_meet_once_a_step(runs):
    assert runs.variation("eight devices").step["AllReduce"] == 1


@finding(14, "weight decay and optimizer are kernels for each of 52 small tensors")
@pytest.mark.slow
@pytest.mark.long
def test_a_step_of_the_default_recipe_has_at_most_250_kernels(runs):
    assert runs.recipe("cifar10").step.count <= 250


@finding(14, "Muon orthogonalises one filter after the other")
def test_a_step_of_muon_on_the_wide_net_has_at_most_400_kernels(runs):
    assert runs.variation("cifar_wide muon").step.count <= 400


@finding(15, "the summary runs an image through the network to learn the sizes")
def test_the_summary_does_not_compute_on_the_device(runs):
    assert not runs.recipe("digits").eager["Conv2D"]


@finding(19, "ops.matmul becomes MatMulExt, which MindSpore Lite converts for fixed shapes only")
@pytest.mark.slow
@pytest.mark.long
def test_a_network_that_resizes_exports_products_that_can_be_converted(runs):
    runs.variation("device mixup")
    [exported] = run(
        [("export.py", "--ckpt_path", f"run/{CHECKPOINT}", "--uint8_input")], runs.run_folder("device mixup")
    )
    assert exported.status == 0, exported.errors
    assert exported.graphs and not any(graph.kernels["MatMulExt"] for graph in exported.graphs)
