"""Checkpoints: a moment of saving in which the process dies, and files that were damaged since."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.checkpoint import load_network, load_pretrained, read_checkpoint, read_json, save_checkpoint
from src.cli.errors import UserError
from src.dataset.preprocessing import Preprocessing
from src.model_card import ModelCard
from src.training.checkpoints import STATE_KEY
from src.training.resume import read_saved
from tests.programs import ROOT

MODEL = {"num_classes": 4, "version": "cifar", "base_e": 8, "incr_e": 8}
CARD = ModelCard(MODEL, list("abcd"), Preprocessing(8, "crop", "dataset", (0.5,) * 3, (0.2,) * 3), "digits", 0.0)
STATE = {
    **{"step": 3, "steps_per_epoch": 4, "devices": 1, "training_images": 64, "seconds": 1.0},
    "parts": {
        "training": {"recorded": 3},
        "dead_start": {"at_level": 0, "epoch_losses": [2.3], "said": False},
        "resumed_at": [],
    },
}

KILLED = """
    import os, random, signal, sys, time
    from pathlib import Path
    import src
    from src.checkpoint import read_checkpoint, read_json, save_checkpoint
    from tests.faults.test_checkpoints import CARD

    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    chance, net, last = random.Random(1), CARD.build(), 0
    save_checkpoint(net, folder / "net.ckpt", CARD, number=0)
    survived = 0
    for _ in range(kills):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            for number in range(last + 1, last + 10_000):
                save_checkpoint(net, folder / "net.ckpt", CARD, number=number)
                os.write(writing, b"%d\\n" % number)
        os.close(writing)
        time.sleep(chance.uniform(0.0, 0.4))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(reading) as done:
            last = max([last, *map(int, done.read().split())])
        found = read_json(read_checkpoint(folder / "net.ckpt"), "number")
        # The newest complete one: the one that was reported last, or the next, when the report did not come through.
        survived += found in (last, last + 1)
        last = found
    print(survived, last)
"""


@pytest.mark.parametrize("kills", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_a_process_killed_while_it_saves_leaves_the_newest_complete_checkpoint(tmp_path, kills, faults):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), str(kills)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    survived, saved = map(int, done.stdout.split())
    with faults("SIGKILLs while a checkpoint is saved", "left the newest one whole") as inject:
        for i in range(kills):
            with inject.fault(f"{i}"):
                assert i < survived
        inject.notes.append(f"{saved} files saved meanwhile")
    assert saved > kills / 4  # They were killed while saving, not before.


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A checkpoint of a run."""
    path = tmp_path_factory.mktemp("whole") / "SqueezeNet-1_3.ckpt"
    save_checkpoint(CARD.build(), path, CARD, **{STATE_KEY: STATE})
    assert read_saved(path).state.step == 3
    return path


@pytest.fixture(scope="module")
def refused():
    """A function that checks that nothing takes a file, and returns the reason."""
    net = CARD.build()

    def require_refusal(path) -> str:
        for take in (read_checkpoint, load_network, read_saved, lambda file: load_pretrained(net, file, CARD)):
            with pytest.raises(UserError) as error:
                take(path)
            assert "\n" not in str(error.value)
        return str(error.value)

    return require_refusal


def test_every_truncation_is_refused(whole, refused, tmp_path, faults):
    data, file = whole.read_bytes(), tmp_path / "cut.ckpt"
    names = [data.find(name.encode()) for name in read_checkpoint(whole)]
    # Within and between the records, whose names are found in them; the last bytes, where the checksum is; anywhere.
    cuts = {offset + shift for offset in names for shift in (-6, -4, -2, -1, 0, 1, 5)}
    cuts |= {len(data) - i for i in range(1, 25)} | {int(x) for x in np.linspace(0, len(data) - 1, 100)}
    with faults("truncated checkpoints", "refused") as inject:
        for cut in sorted(cut for cut in cuts if 0 <= cut < len(data)):
            with inject.fault(f"cut at {cut} of {len(data)}"):
                file.write_bytes(data[:cut])
                refused(file)


def test_every_flipped_bit_is_refused(whole, refused, tmp_path, faults):
    data, file, chance = whole.read_bytes(), tmp_path / "flipped.ckpt", random.Random(0)
    anywhere = [chance.randrange(len(data) * 8) for _ in range(300)]
    checksum = range((len(data) - 17) * 8, len(data) * 8)  # Its mark, without which MindSpore checks nothing.
    with faults("checkpoints with a flipped bit", "refused") as inject:
        for bit in [*anywhere, *checksum]:
            with inject.fault(f"bit {bit}"):
                flipped = bytearray(data)
                flipped[bit // 8] ^= 1 << bit % 8
                file.write_bytes(flipped)
                refused(file)


def saved_with(path, change):
    """Save a checkpoint whose contents were changed before, with a sound checksum."""
    held = {name: value.asnumpy() for name, value in read_checkpoint(path).items()}
    change(held)
    path = path.with_name("changed.ckpt")
    ms.save_checkpoint(
        [{"name": name, "data": Tensor(value)} for name, value in held.items()], str(path), crc_check=True
    )
    return path


def test_sound_files_with_wrong_contents_are_refused(whole, tmp_path, faults):
    weight, card = "features.0.conv.weight", "model_card"
    swap = "features.2.squeeze.conv.weight"
    text = bytes(read_checkpoint(whole)[card].asnumpy()).decode()

    def with_card(old, new):
        assert old in text
        return lambda held: held.update({card: np.frombuffer(text.replace(old, new).encode(), np.uint8)})

    changes = {
        "NaN": lambda held: held[weight].__setitem__((0, 0, 0, 0), np.nan),
        "infinity": lambda held: held[weight].__setitem__((1, 1, 1, 1), -np.inf),
        "a tensor missing": lambda held: held.pop(weight),
        "a tensor too many": lambda held: held.update({"features.99.conv.weight": held[weight]}),
        "another shape": lambda held: held.update({weight: held[weight][:-1]}),
        "two tensors swapped": lambda held: held.update({weight: held[swap], swap: held[weight]}),
        "another architecture": with_card('"version": "cifar"', '"version": "1_1"'),
        "an architecture that there is not": with_card('"version": "cifar"', '"version": "9_9"'),
        "another number of classes": with_card('"num_classes": 4', '"num_classes": 5'),
        "a card that is no JSON": with_card('"classes": [', '"classes": '),
        "no classes": with_card('"classes"', '"clas"'),
        "a fit that there is not": with_card('"fit": "crop"', '"fit": "crap"'),
        "a size that no image has": with_card('"image_size": 8', '"image_size": 2147483647'),
        "a size of zero": with_card('"image_size": 8', '"image_size": 0'),
        "a normalisation that there is not": with_card('"normalize": "dataset"', '"normalize": "x"'),
        "too few means": with_card('"mean": [0.5, 0.5, 0.5]', '"mean": [0.5]'),
        "a deviation of zero": with_card('"std": [0.2, 0.2, 0.2]', '"std": [0.2, 0.0, 0.2]'),
        "classes that are no texts": with_card('"classes": ["a"', '"classes": [7'),
        "fewer classes than logits": with_card('"classes": ["a", ', '"classes": ['),
    }
    with faults("sound checkpoint files with wrong contents", "refused") as inject:
        for what, change in changes.items():
            with inject.fault(what):
                path = saved_with(whole, change)
                with pytest.raises(UserError) as error:
                    load_network(path)
                assert "\n" not in str(error.value)


def test_a_file_saved_without_a_checksum_is_refused_when_it_has_a_card(whole, tmp_path):
    held = read_checkpoint(whole)
    records = [{"name": name, "data": Tensor(value.asnumpy())} for name, value in held.items()]
    ms.save_checkpoint(records, str(tmp_path / "bare.ckpt"))
    with pytest.raises(UserError, match="damaged: its checksum is missing"):
        load_network(tmp_path / "bare.ckpt")


def test_what_is_saved_beside_the_weights_comes_back(whole):
    assert read_json(read_checkpoint(whole), STATE_KEY) == STATE
