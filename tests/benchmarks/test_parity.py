"""The published ImageNet network: its logits are the golden ones in every mode and format (benchmarks/parity.py)."""

from __future__ import annotations

import csv
import json

import pytest

from benchmarks import parity
from src.checkpoint import load_network

QUICK, ALL = 6, 200


@pytest.fixture(scope="module")
def data(shared):
    return shared / "data" / "imagenet_squeezenet"


@pytest.fixture(scope="module")
def ckpt_path(data, tmp_path_factory):
    return parity.convert_golden(data, tmp_path_factory.mktemp("golden"))


def check(data, ckpt_path, images: int, modes: tuple, batches: tuple) -> None:
    golden = parity.read_golden(data, load_network(ckpt_path)[1].preprocessing, images)
    assert len(golden.logits) == images
    tried = []
    for name, run in parity.runs(ckpt_path, modes):
        for batch in batches:
            found = parity.compare(run, golden, batch)
            assert found.is_exact, f"{name}, batch {batch}: {found}"
            tried.append(name)
    assert set(tried) == set(modes)


def test_some_photographs_get_the_golden_logits_in_graph_mode_and_in_onnx(data, ckpt_path):
    check(data, ckpt_path, QUICK, ("GRAPH_MODE", "ONNX"), (4,))


@pytest.mark.slow
def test_all_photographs_get_the_golden_logits_in_every_mode_and_format(data, ckpt_path):
    check(data, ckpt_path, ALL, parity.RUNS, (1, 32))


@pytest.mark.parametrize("images", [QUICK, pytest.param(ALL, marks=pytest.mark.slow)])
def test_infer_names_the_golden_five_best(data, ckpt_path, script, tmp_path, images):
    with open(data / "expected_top5.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))[:: ALL // images][:images]
    files = [data / "images" / row["file"] for row in rows]
    done = script("infer.py", "--ckpt_path", ckpt_path, "--images", *files, "--device_target", "CPU", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    predictions = json.loads((tmp_path / "predictions" / "predictions.json").read_text())
    assert len(predictions) == images
    for row, prediction in zip(rows, predictions):
        found = [best["index"] for best in prediction["top_k"]]
        assert found == [int(row[f"top{i}"]) for i in range(1, 6)], row["file"]
