"""compress.py as a user runs it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from PIL import Image

from src.checkpoint import load_network, read_compressed, save_checkpoint
from src.cli.errors import UserError
from src.compression.compress import compress, decompress, missed
from src.compression.config import CompressConfig, Compression, MeasureConfig, RetrainConfig, parse_compress
from src.compression.pipeline import Pipeline
from src.compression.quantize import round_bfloat16
from src.config import DeviceConfig
from src.dataset.preprocessing import Preprocessing
from src.inference.exported_model import ExportedModel, read_spec
from src.inference.fold import fold_batch_norm
from src.model_card import ModelCard
from src.sqz.fileformat import decode
from tests.programs import one_line_error, run_script

ON_CPU = ("--device_target", "CPU")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a checkpoint of a small net for digits, untrained, and four photographs with labels."""
    folder = tmp_path_factory.mktemp("compress")
    classes = [str(i) for i in range(10)]
    preprocessing = Preprocessing(16, "resize", "dataset", (0.5,) * 3, (0.5,) * 3)
    model = {"num_classes": 10, "version": "cifar", "base_e": 16, "incr_e": 16, "batch_norm": "squeeze"}
    card = ModelCard(model, classes, preprocessing, "digits", 0.0)
    save_checkpoint(card.build(), folder / "net.ckpt", card)
    (folder / "photos").mkdir()
    random = np.random.RandomState(0)
    for i in range(4):
        Image.fromarray(random.randint(0, 256, (30, 40, 3), np.uint8)).save(folder / "photos" / f"{i}.png")
    rows = ["image,label", *(f"{i}.png,{i}" for i in range(4))]
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def compressed(folder):
    flags = ("--bits", 5, "--sparsity", 0.5, "--layer_bits", "features.0.*=8", "--layer_sparsity", "classifier.*=0")
    measured = ("--images", "photos", "--labels", "labels.csv", *ON_CPU)
    return run_script("compress.py", "--ckpt_path", "net.ckpt", *flags, *measured, cwd=folder)


def weights(path):
    net, _ = load_network(path)
    return {name: p.asnumpy() for name, p in net.parameters_and_names() if p.asnumpy().dtype == np.float32}


def test_a_run_writes_the_file_the_report_and_pictures_and_says_what_they_cost(folder, compressed):
    assert (compressed.returncode, compressed.stderr) == (0, "")
    output = folder / "compressed_net"
    names = {"net.sqz", "report.json", "report.txt", "histograms.png", "bytes.png"}
    assert {entry.name for entry in output.iterdir()} == names
    report = json.loads((output / "report.json").read_text())
    assert report["totals"]["file_bytes"] == (output / "net.sqz").stat().st_size
    assert [step["step"] for step in report["steps"]] == ["original", "pruned", "quantized"]
    assert all(step["images"] == 4 and 0 <= step["accuracy"] <= 1 for step in report["steps"])
    assert report["steps"][0]["agreement"] == 1 and report["steps"][-1]["file_bytes"] == report["totals"]["file_bytes"]
    *lines, file = compressed.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["device", "original", "pruned", "quantized"]
    assert "same class as the original" in lines[-1] and "same class" not in lines[1]
    assert "net.sqz: " in file and "times smaller than float32" in file
    assert (output / "report.txt").read_text().startswith("layer ")
    for picture in ("histograms.png", "bytes.png"):
        Image.open(output / picture).verify()


def test_each_layer_has_the_sparsity_and_the_bits_that_it_was_given(folder, compressed):
    _, original_card = load_network(folder / "net.ckpt")
    original, folded_card = fold_batch_norm(weights(folder / "net.ckpt"), original_card)
    parameters, card = read_compressed(folder / "compressed_net" / "net.sqz")
    assert card == folded_card
    for name, array in parameters.items():
        if array.ndim < 4:
            np.testing.assert_array_equal(array, round_bfloat16(original[name]))
            continue
        zero = 0.0 if name.startswith("classifier") else 0.5
        assert np.mean(array == 0) == pytest.approx(zero, abs=1 / array.size), name
        bits = 8 if name.startswith("features.0.") else 5
        assert len(np.unique(array[array != 0])) <= 2**bits, name


def test_decompress_gives_back_a_checkpoint_with_the_same_weights(folder, compressed, program):
    done = program("compress", "--decompress", "compressed_net/net.sqz", "--output_path", "back", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    expected, card = read_compressed(folder / "compressed_net" / "net.sqz")
    found = weights(folder / "back" / "net.ckpt")
    assert all(found[name].tobytes() == array.tobytes() for name, array in expected.items())
    assert load_network(folder / "back" / "net.ckpt")[1] == card
    again = program("compress", "--decompress", "compressed_net/net.sqz", "--output_path", "back", cwd=folder)
    assert again.returncode == 2 and "already exists" in again.stderr


def test_without_images_it_says_so_and_a_compressed_file_can_be_compressed(folder, compressed, capsys):
    source, output = folder / "compressed_net" / "net.sqz", folder / "same"
    config = CompressConfig(ckpt_path=str(source), bits=None, output_path=str(output))
    configuration = Compression(config, MeasureConfig(), RetrainConfig(), DeviceConfig())
    report = compress(configuration)
    assert capsys.readouterr().out.startswith("no images are given")
    assert [step["step"] for step in report["steps"]] == ["original"] and "accuracy" not in report["steps"][0]
    first, _ = decode(source.read_bytes())
    second, _ = decode((output / "net.sqz").read_bytes())
    assert all(second[name].tobytes() == array.tobytes() for name, array in first.items())
    with pytest.raises(UserError, match="already contains a run"):
        compress(configuration)


@pytest.mark.parametrize(
    "flags, message",
    [
        ((), "give either --ckpt_path"),
        (("--ckpt_path", "a.ckpt", "--decompress", "b.sqz"), "give either --ckpt_path"),
        (("--ckpt_path", "a", "--bits", "9"), "bits: '9' is not allowed; it takes a whole number from 1 to 8"),
        (("--ckpt_path", "a", "--bits", "0"), "bits: '0' is not allowed"),
        (
            ("--ckpt_path", "a", "--sparsity", "1.5"),
            "sparsity: '1.5' is not allowed; it takes a number from 0",
        ),
        (("--ckpt_path", "a", "--sparsity", "-0.1"), "sparsity: '-0.1' is not allowed"),
        (("--ckpt_path", "a", "--tolerance", "2"), "tolerance: '2' is not allowed"),
        (("--ckpt_path", "a", "--sparsity", "0.5", "--tolerance", "0.1"), "give one of the two"),
        (("--ckpt_path", "a", "--layer_bits", "x=9"), "layer_bits: 'x=9' is not allowed"),
        (("--ckpt_path", "a", "--layer_sparsity", "x"), "layer_sparsity: 'x' is not allowed"),
        (("--ckpt_path", "a", "--images", "b", "--dataset", "digits"), "give either --images"),
        (("--ckpt_path", "a", "--labels", "b"), "labels: they are those of --images"),
        (("--ckpt_path", "a", "--target_bytes", "0"), "target_bytes: '0' is not allowed"),
        (("--ckpt_path", "a", "--target_bytes", "9", "--bits", "null"), "target_bytes: needs quantization"),
        (("--ckpt_path", "a", "--target_bytes", "9", "--layer_bits", "*=5"), "layer_bits and target_bytes both"),
        (("--ckpt_path", "a", "--dataset", "digits", "--train_epochs", "1"), "there is nothing to prune"),
        (("--ckpt_path", "a", "--sparsity", "0.5", "--train_epochs", "1"), "need training images"),
        (("--ckpt_path", "a", "--centroid_epochs", "1", "--bits", "null"), "centroid_epochs: with bits null"),
        (("--ckpt_path", "a", "--max_drop", "0.01"), "max_drop: accuracy is not measured"),
        (("--ckpt_path", "a", "--int8", "--images", "b"), "int8: give images to calibrate"),
    ],
)
def test_what_cannot_be_is_one_line_from_the_configuration(flags, message):
    with pytest.raises(UserError) as caught:
        parse_compress(list(flags), "Compress a network.")
    assert message in str(caught.value)


@pytest.mark.parametrize("words", ["500000", "500kB", "0.5MB", "0.5 mb"])
def test_a_size_may_be_given_in_kilobytes_and_megabytes(words):
    (config, *_) = parse_compress(["--ckpt_path", "a", "--target_bytes", words], "Compress a network.")
    assert config.target_bytes == 500_000


def test_a_pattern_that_fits_no_layer_is_named():
    config = CompressConfig(ckpt_path="a", layer_bits=["feature.0=8"])
    with pytest.raises(UserError, match=r"'feature\.0' fits no convolution"):
        config.layer_choices(["features.0.conv.weight"])


def test_the_last_pattern_that_fits_counts():
    config = CompressConfig(ckpt_path="a", bits=4, layer_bits=["*=5", "a.*=6"], layer_sparsity=["b.*=0.5"])
    assert config.layer_choices(["a.w", "b.w"]) == {"a.w": (None, 6), "b.w": (0.5, 5)}


@pytest.mark.parametrize(
    "name, change",
    [
        ("empty", lambda data: b""),
        ("cut", lambda data: data[: len(data) // 2]),
        ("flipped", lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:]),
        ("newer", lambda data: data[:8] + b"\x09\x00" + data[10:]),
    ],
)
def test_a_damaged_file_is_one_line_and_nothing_is_written(folder, compressed, name, change):
    (folder / f"{name}.sqz").write_bytes(change((folder / "compressed_net" / "net.sqz").read_bytes()))
    output = folder / f"out_{name}"
    with pytest.raises(UserError, match=f"{name}.sqz: "):
        decompress(CompressConfig(decompress=str(folder / f"{name}.sqz"), output_path=str(output)))
    assert not output.exists()


def test_a_missing_file_is_one_line_and_exit_code_2(folder, program):
    assert one_line_error(program("compress", "--decompress", "missing.sqz", cwd=folder)).startswith(
        "error: missing.sqz: cannot be read"
    )


def test_labels_that_do_not_fit_are_named(folder):
    from src.compression.evaluator import Evaluator

    _, card = load_network(folder / "net.ckpt")
    for text, message in (
        ("image,label\n0.png,0", "no row for 1.png"),
        ("image,label\n0.png,11", "line 2: unknown class '11'; the classes are 0, 1"),
        ("file,label\n0.png,1", "no column 'image'"),
    ):
        (folder / "wrong.csv").write_text(text)
        with pytest.raises(UserError, match=message):
            Evaluator(MeasureConfig(images=str(folder / "photos"), labels=str(folder / "wrong.csv")), card)


@pytest.fixture(scope="module")
def trained(folder):
    """One run with everything: pruned while trained, to a size within reach, codebooks trained, and int8."""
    output = folder / "trained"
    configuration = Compression(
        CompressConfig(
            ckpt_path=str(folder / "net.ckpt"),
            output_path=str(output),
            bits=4,
            target_bytes=2_000,
            max_drop=0.0,
            int8=True,
        ),
        MeasureConfig(dataset="digits"),
        RetrainConfig(train_epochs=1, centroid_epochs=1, train_images=320, train_batch_size=64, augment="none"),
        DeviceConfig(device_target="CPU"),
    )
    return output, compress(configuration, lambda line: None)


@pytest.mark.thorough
def test_a_trained_run_reports_each_step_and_keeps_what_it_reached(folder, trained):
    output, report = trained
    names = ["original", "pruned and trained", "quantized", "codebooks trained"]
    assert [step["step"] for step in report["steps"]] == names and report["trained"]
    parameters, card = read_compressed(output / "net.sqz")
    assert card.model["batch_norm"] == "none"
    size = report["totals"]["file_bytes"]
    assert (output / "net.sqz").stat().st_size == size == report["steps"][-1]["file_bytes"]
    assert all(np.mean(array == 0) > 0.5 for name, array in parameters.items() if array.ndim == 4 and array.size > 1000)
    # Header and model card alone take a third of this target.
    assert size <= 2_000 < report["steps"][1]["file_bytes"]
    assert not any(line.startswith("target_bytes") for line in report["missed"])


def test_int8_is_compared_and_runs_as_an_exported_model(trained):
    output, report = trained
    float32, int8, compressed = report["int8"]
    assert [row["what"] for row in report["int8"]] == ["float32 ONNX", "int8 ONNX", "compressed file, decoding"]
    assert float32["agreement"] > 0.99 and int8["bytes"] == (output / "net.int8.onnx").stat().st_size
    stored = {tensor.name: tensor.data_type for tensor in onnx.load(str(output / "net.int8.onnx")).graph.initializer}
    weights_stored = [kind for name, kind in stored.items() if name.endswith("weight_quantized")]
    assert weights_stored == [onnx.TensorProto.INT8] * 14
    assert compressed["bytes"] == report["totals"]["file_bytes"]
    spec = read_spec(output / "net.int8.onnx")
    logits = ExportedModel(output / "net.int8.onnx", spec)(np.zeros((2, 3, 16, 16), np.float32))
    assert logits.shape == (2, 10)


@pytest.mark.parametrize(
    "given, run, expected",
    [
        (None, None, ("crop_flip", None)),
        (None, "augment: none\ncrop_padding: 2\n", ("none", 2)),
        ("cutout", "augment: none\ncrop_padding: 2\n", ("cutout", None)),
    ],
)
def test_training_images_are_augmented_as_in_the_run_of_the_checkpoint(tmp_path, given, run, expected):
    if run:
        (tmp_path / "config.yaml").write_text(run)
    config = CompressConfig(ckpt_path=str(tmp_path / "best.ckpt"))
    configuration = Compression(config, MeasureConfig(dataset="digits"), RetrainConfig(augment=given), DeviceConfig())
    data = Pipeline(configuration, {}, None, None, print).training_data(
        SimpleNamespace(val_split_of=lambda dataset: 0.0)
    )
    assert (data.augment, data.crop_padding, data.dataset) == (*expected, "digits")


def test_targets_that_are_missed_are_named():
    steps = [{"file_bytes": 900, "accuracy": 0.9}, {"file_bytes": 200, "accuracy": 0.88}]
    config = CompressConfig(ckpt_path="a", target_bytes=100, max_drop=0.005)
    assert missed(config, steps) == [
        "target_bytes: the file has 200 bytes, more than 100; prune more of its weights (--sparsity), or set a larger "
        "target",
        "max_drop: accuracy fell by 2.00 points, more than 0.50",
    ]
    assert missed(CompressConfig(ckpt_path="a", target_bytes=200, max_drop=0.05), steps) == []
