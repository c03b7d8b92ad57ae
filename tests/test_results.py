"""The checkpoints in results/, on which figures in docs/RESULTS.md rest: they have to give them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from src.checkpoint import load_network
from src.config import parse_train, with_keys
from src.dataset.cifar10 import open_cifar10
from src.inference.config import EvalConfig
from src.inference.evaluation import evaluate_model
from src.keys import DeviceConfig
from src.network.summary import summarize, totals
from tests.programs import ROOT

RUNS = sorted(path.parent for path in (ROOT / "results").glob("*/result.json"))
COMPRESSED = sorted(path.parent for path in (ROOT / "results").glob("*/compressed/report.json"))
WITH_CHECKPOINT = [run for run in RUNS if (run / "best.ckpt").is_file()]
# What compression is to lose at most, and what it loses at most so far (docs/COMPRESSION.md).
HALF_A_POINT, LARGEST_DROP = 0.005, 0.0075
# Of the pixels of the official test images, (10000, 32, 32, 3).
OFFICIAL_SHA256 = "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04"


def result_of(run: Path) -> dict:
    return json.loads((run / "result.json").read_text(encoding="utf-8"))


def compressed_accuracy(folder: Path) -> float:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))["steps"][-1]["accuracy"]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_a_run_can_be_repeated_from_its_folder_and_the_results_have_its_figure(run):
    config = parse_train(["--config", str(run / "config.yaml")], "")
    config.check()
    page = (ROOT / "docs" / "RESULTS.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{run.name}` |")]
    assert f"--data_path {config.data.data_path}" in row
    assert f"| {result_of(run)['test']['accuracy']:.2%} |" in row


def test_a_trained_net_is_shipped():
    assert WITH_CHECKPOINT


@pytest.mark.parametrize("run", WITH_CHECKPOINT, ids=lambda run: run.name)
def test_a_shipped_checkpoint_was_trained_by_the_recipe_in_config(run):
    recipe, trained = (
        parse_train(["--config", str(path)], "") for path in (ROOT / "config" / f"{run.name}.yaml", run / "config.yaml")
    )
    # Where nothing is scaled, no loss scale is one of 1, as earlier versions wrote it.
    assert trained.optimizer.amp_level == "O0" and trained.optimizer.loss_scale in (None, 1.0)
    assert recipe == with_keys(trained, loss_scale=None)


@pytest.mark.parametrize("run", WITH_CHECKPOINT, ids=lambda run: run.name)
def test_a_shipped_checkpoint_is_the_net_of_its_result(run):
    _, card = load_network(run / "best.ckpt")
    result, size = result_of(run), card.preprocessing.image_size
    assert totals(summarize(card.model, size)) == (result["parameters"], result["multiply_adds"])
    assert result["parameters"] <= 750_000
    assert (run / "best.ckpt").stat().st_size < 3 * 2**20


@pytest.mark.slow
@pytest.mark.cifar10
@pytest.mark.parametrize("run", WITH_CHECKPOINT, ids=lambda run: run.name)
def test_a_shipped_checkpoint_has_its_accuracy_on_the_real_test_images(run, real_cifar10, tmp_path):
    assert_accuracy(run / "best.ckpt", result_of(run)["test"]["accuracy"], real_cifar10, tmp_path / "e")


@pytest.mark.parametrize("folder", COMPRESSED, ids=lambda folder: folder.parent.name)
def test_a_shipped_compressed_net_is_a_twentieth_of_its_checkpoint_and_its_page_has_its_figures(folder):
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    size, accuracy = (folder / "best.sqz").stat().st_size, compressed_accuracy(folder)
    original = result_of(folder.parent)
    assert report["totals"]["file_bytes"] == size <= 4 * original["parameters"] / 20
    drop = original["test"]["accuracy"] - accuracy
    assert drop < LARGEST_DROP and bool(report["missed"]) == (drop > HALF_A_POINT)  # What is missed is said.
    assert f"| {size:,} | {accuracy:.2%} |" in (ROOT / "docs" / "COMPRESSION.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.cifar10
@pytest.mark.parametrize("folder", COMPRESSED, ids=lambda folder: folder.parent.name)
def test_a_shipped_compressed_net_has_its_accuracy_on_the_real_test_images(folder, real_cifar10, tmp_path):
    assert_accuracy(folder / "best.sqz", compressed_accuracy(folder), real_cifar10, tmp_path / "e")


@pytest.mark.parametrize("page", ["README.md", "README_CN.md"])
def test_the_first_page_has_the_accuracies_of_what_is_shipped(page):
    rows = (ROOT / page).read_text(encoding="utf-8")
    shipped = [result_of(run)["test"]["accuracy"] for run in WITH_CHECKPOINT]
    for accuracy in (*shipped, *map(compressed_accuracy, COMPRESSED)):
        assert f"| {accuracy:.2%} |" in rows


def assert_accuracy(path: Path, accuracy: float, data: Path, output_path: Path) -> None:
    if hashlib.sha256(open_cifar10(data, "test").images.tobytes()).hexdigest() != OFFICIAL_SHA256:
        pytest.skip("these test images are not the official ones")
    config = EvalConfig(ckpt_path=str(path), data_path=str(data), output_path=str(output_path))
    found = evaluate_model(config, DeviceConfig(device_target="CPU"))
    assert found["images"] == 10_000
    # Another processor adds in another order, which may turn an image or two.
    assert found["accuracy"] == pytest.approx(accuracy, abs=3e-4)
