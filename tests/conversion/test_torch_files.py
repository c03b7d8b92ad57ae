"""torchvision's files: outputs equal to torch's, and files that torch reads; hostile ones run nothing."""

from __future__ import annotations

import collections
import datetime
import io
import os
import pathlib
import pickle
import re
import zipfile

import numpy as np
import pytest
from mindspore import Tensor

from src.checkpoint import weights_of
from src.conversion.converting import import_network
from src.conversion.torch_files import read_torch, write_torch
from src.dataset.preprocessing import Preprocessing
from src.model_card import ModelCard
from tests.conversion.made_weights import ALL_TOLD, SMALL, config, random_tensors
from tests.made_data import refusal

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -r requirements-dev.txt")


def save(state, path, legacy=False):
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("version, legacy", [("1_0", False), ("1_1", True)])
def test_logits_are_torchs_at_224_where_pools_round_up(tmp_path, version, legacy):
    from tests.conversion.torchvision_squeezenet import SqueezeNet

    torch.manual_seed(1)
    theirs = SqueezeNet(version).eval()
    net, card = import_network(config("torchvision", save(theirs.state_dict(), tmp_path / "net.pth", legacy)))
    inputs = np.random.RandomState(0).standard_normal((2, 3, 224, 224)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(inputs)).numpy()
    assert np.abs(net(Tensor(inputs)).asnumpy() - expected).max() < 1e-4 < expected.max()
    assert card.model["version"] == version and card.model["ceil_mode"] is True
    assert card.classes[:2] == ["tench", "goldfish"] and card.preprocessing.resizer == "pillow"


def test_one_output_is_said_to_be_nothing_to_choose(tmp_path, capsys):
    state = {
        name: torch.from_numpy(a)
        for name, a in random_tensors({"num_classes": 1, "version": "1_1"}, "torchvision").items()
    }
    _, card = import_network(config("torchvision", save(state, tmp_path / "net.pth")))
    assert len(card.classes) == 1 and "so nothing to choose" in capsys.readouterr().err


def test_torch_reads_what_is_written_bit_for_bit(tmp_path):
    tensors = random_tensors(SMALL, "torchvision")
    path = tmp_path / "net.pth"
    card = ModelCard(SMALL, ["a"] * 10, Preprocessing(32, "resize", "dataset", (0.5,) * 3, (0.5,) * 3), "digits", 0.0)
    path.write_bytes(write_torch(tensors, card))
    assert read_torch(path).card == card
    state = torch.load(path, weights_only=True)
    assert list(state) == list(tensors)
    assert all(state[name].numpy().tobytes() == array.tobytes() for name, array in tensors.items())
    assert torch.load(path, weights_only=True, mmap=True).keys() == tensors.keys()


@pytest.mark.parametrize("legacy", [False, True])
def test_all_layouts_of_tensors_are_read(tmp_path, legacy):
    """Half precision; values in another order in memory; two tensors that share one storage."""
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 2, 2)
    state = collections.OrderedDict(
        half=base.half(), last=base.contiguous(memory_format=torch.channels_last), part=base[1], whole=base
    )
    found = read_torch(save(state, tmp_path / "net.pth", legacy)).tensors
    for name, tensor in state.items():
        assert found[name].dtype == np.float32 and (found[name] == tensor.float().numpy()).all(), name


def small_state() -> dict:
    return {name: torch.from_numpy(array) for name, array in random_tensors(SMALL, "torchvision").items()}


def prefixed(state: dict, prefix: str) -> dict:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


class Module(torch.nn.Module):
    """A module of a state_dict, with the network in an attribute, as Lightning has it."""

    def __init__(self, state: dict, attribute: str = ""):
        super().__init__()
        for name, tensor in prefixed(state, attribute and f"{attribute}.").items():
            *path, last = name.split(".")
            module = self
            for part in path:
                module.add_module(part, module._modules.get(part) or torch.nn.Module())
                module = module._modules[part]
            module.register_parameter(last, torch.nn.Parameter(tensor))

    def forward(self, images):
        return images


class Transform:
    """A class that cannot be imported where the file is read."""

    __slots__ = ("mean", "size")

    def __init__(self):
        self.size, self.mean = 224, torch.ones(3)


def lightning(state: dict) -> dict:
    parameters = [torch.nn.Parameter(tensor) for tensor in state.values()]
    optimizer = torch.optim.Adam(parameters)
    sum(parameter.sum() for parameter in parameters).backward()
    optimizer.step()
    return {
        "epoch": 3,
        "state_dict": collections.OrderedDict({**prefixed(state, "model."), "criterion.weight": torch.ones(10)}),
        "optimizer_states": [optimizer.state_dict()],
        "hyper_parameters": {"transform": Transform(), "path": pathlib.Path("data"), "mean": np.ones(3), "at": {1, 2}},
        "loops": {"fit_loop": {"seconds": datetime.timedelta(1), "kind": torch.float32, "device": torch.device("cpu")}},
    }


AS_THEY_COME = {
    "a state_dict": lambda state: state,
    "DataParallel": lambda state: prefixed(state, "module."),
    "DataParallel of the features": lambda state: {
        n.replace("features.", "features.module."): t for n, t in state.items()
    },
    "torch.compile": lambda state: prefixed(state, "_orig_mod."),
    "both, of the attribute net": lambda state: prefixed(state, "_orig_mod.module.net."),
    "FSDP": lambda state: prefixed(state, "_fsdp_wrapped_module."),
    "a moving average": lambda state: {"n_averaged": torch.tensor(7), **prefixed(state, "module.")},
    "the example's checkpoint": lambda state: {
        "epoch": 9,
        "arch": "squeezenet1_1",
        "state_dict": state,
        "best_acc1": 58.1,
    },
    **{key: lambda state, key=key: {key: state, "epoch": 3} for key in ("model", "net", "model_state_dict", "weights")},
    "a list": lambda state: [state, {"step": 3}],
    "Lightning": lightning,
    "parameters": lambda state: {name: torch.nn.Parameter(tensor) for name, tensor in state.items()},
    "half": lambda state: {name: tensor.half() for name, tensor in state.items()},
    "bfloat16": lambda state: {name: tensor.bfloat16() for name, tensor in state.items()},
    "double": lambda state: {name: tensor.double() for name, tensor in state.items()},
    "channels last": lambda state: {
        n: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for n, t in state.items()
    },
    "a whole module": Module,
    "a whole module of the attribute backbone": lambda state: {"model": Module(state, "backbone")},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", AS_THEY_COME)
def test_files_of_trainings_are_read_as_they_come(tmp_path, kind, legacy):
    state = small_state()
    path = save(AS_THEY_COME[kind](state), tmp_path / "net.pt", legacy)
    rounded = {"half": torch.float16, "bfloat16": torch.bfloat16}.get(kind, torch.float32)
    found = read_torch(path)
    assert list(found.tensors) == list(state) and found.notes == ()
    for name, tensor in state.items():
        assert found.tensors[name].dtype == np.float32
        assert found.tensors[name].tobytes() == tensor.to(rounded).float().numpy().tobytes(), name


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_all_protocols_of_pickle_are_read(tmp_path, protocol):
    torch.save(lightning(small_state()), tmp_path / "net.pth", pickle_protocol=protocol)
    assert list(read_torch(tmp_path / "net.pth").tensors) == list(small_state())


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_module_is_read(tmp_path):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.features = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())

        def forward(self, images):
            return self.features(images)

    net = Net()
    torch.jit.save(torch.jit.trace(net, torch.zeros(1, 3, 8, 8)), tmp_path / "net.pt")
    found = read_torch(tmp_path / "net.pt").tensors
    assert {name: tensor.tobytes() for name, tensor in found.items()} == {
        name: tensor.numpy().tobytes() for name, tensor in net.state_dict().items()
    }


def test_batch_norm_comes_with_its_counters(tmp_path):
    model = {**SMALL, "batch_norm": "squeeze"}
    state = {name: torch.from_numpy(np.abs(array)) for name, array in random_tensors(model, "torchvision").items()}
    counters = {
        f"{name[: -len('running_mean')]}num_batches_tracked": torch.tensor(1000)
        for name in state
        if "running_mean" in name
    }
    _, card = import_network(config("torchvision", save({**state, **counters}, tmp_path / "net.pth"), **ALL_TOLD))
    assert counters and card.model["batch_norm"] == "squeeze"


def test_of_two_networks_the_first_is_taken_and_the_other_named(tmp_path):
    state = small_state()
    averaged = {name: tensor + 1 for name, tensor in state.items()}
    found = read_torch(save({"state_dict": state, "state_dict_ema": averaged}, tmp_path / "net.pth"))
    assert (found.tensors["classifier.1.bias"] == state["classifier.1.bias"].numpy()).all()
    assert found.notes == ("taken: the weights under state_dict., and not those under state_dict_ema.",)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "what, message",
    [
        (lambda state: list(state), "it holds no tensors; save model.state_dict"),
        (lambda state: {}, "it holds no tensors"),
        (lambda state: torch.nn.Linear(2, 2), "does not fit a SqueezeNet"),
        (lambda state: {**state, "more": torch.ones(1)}, "more is not in the network"),
        (lambda state: {k: v for k, v in state.items() if k != "classifier.1.bias"}, "classifier.1.bias is missing"),
        (lambda state: {**state, "classifier.1.bias": torch.ones(3)}, r"classifier.1.bias is \(3,\) in the file"),
        (lambda state: {**state, "classifier.1.bias": torch.ones(10, dtype=torch.int8)}, "is int8, as in a quantised"),
        (
            lambda state: {**state, "classifier.1.bias": quantised()},
            "its weights are quantised; save the network before",
        ),
        (lambda state: {**state, "classifier.1.bias": torch.full((10,), np.nan)}, "not finite"),
        (lambda state: {**state, "classifier.1.bias": torch.full((10,), 1e300, dtype=torch.float64)}, "not finite"),
        (lambda state: {**state, "module.classifier.1.bias": torch.ones(10)}, "two of its tensors have one name"),
    ],
)
def test_what_is_no_network_of_this_kind_is_named(tmp_path, what, message, legacy):
    path = save(what(small_state()), tmp_path / "net.pth", legacy)
    said = refusal(import_network, config("torchvision", path, **ALL_TOLD))
    assert said.startswith(str(path))
    assert re.search(message, said), said


def quantised() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(10), 0.1, 0, torch.qint8)


def rebuilt(storage: bytes = b"K\x04", shape: bytes = b"K\x04\x85", strides: bytes = b"K\x01\x85") -> bytes:
    """The pickle of a state_dict of one tensor, with these opcodes of its numbers."""
    persistent = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + b"0X\x03\0\0\0cpu" + storage + b"tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + persistent + b"K\0" + shape + strides + b"\x89)tR"
    return b"\x80\x02}X\x01\0\0\0a" + call + b"s."


def archive(path, content: bytes, data: bytes = bytes(16), **options):
    with zipfile.ZipFile(path, "w", **options) as stream:
        stream.writestr("archive/data.pkl", content)
        stream.writestr("archive/data/0", data)
    return path


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(trace: str) -> dict[str, bytes]:
    """Pickles that make the file `trace`, or ask for more than is there."""
    return {
        **{
            f"os.system, protocol {protocol}": pickle.dumps({"a": Call(os.system, f"touch {trace}")}, protocol)
            for protocol in (0, 2, 4)
        },
        "eval": pickle.dumps({"a": Call(eval, f"open({trace!r}, 'w')")}, 2),
        "torch's own loader": b"\x80\x02ctorch\nload\nX"
        + len(trace).to_bytes(4, "little")
        + trace.encode()
        + b"\x85R.",
        "an attribute of another object": b"\x80\x02cos\nsystem\n}X\x08\0\0\0__init__Nsb.",
        "a call of a made object": b"\x80\x02cos\nsystem\n)R)R.",
        "a call of a method": b"\x80\x02c__builtin__\ngetattr\n(cos\nX\x06\0\0\0systemtRX\x01\0\0\0a\x85R.",
        "a module in itself": b"\x80\x02cnet\nNet\n)\x81q\0}X\x08\0\0\0_modulesh\0sb.",
        "modules that hold the next twice": b"\x80\x02}" + b"q\0}X\x01\0\0\0ah\0sX\x01\0\0\0bh\0s" * 60 + b".",
        "a stand-in's attribute": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x08\0\0\0__init__Nsb.",
        "nested lists": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
        "a memo of 2**31": b"\x80\x02}r\xff\xff\xff\x7f.",
        "no pickle": b"PK",
        "nothing": b"",
    }


def test_hostile_pickles_are_refused_in_one_line_and_do_not_run(tmp_path):
    trace = tmp_path / "ran"
    assert read_torch(archive(tmp_path / "sound.pth", rebuilt())).tensors["a"].shape == (4,)
    for what, content in hostile(str(trace)).items():
        path = archive(tmp_path / "net.pth", content)
        assert refusal(import_network, config("torchvision", path)).startswith(str(path)), what
        (tmp_path / "old.pth").write_bytes(content)
        refusal(import_network, config("torchvision", tmp_path / "old.pth"))
        assert not trace.exists(), what


HUGE = b"J\xff\xff\xff\x7f"  # The opcode of 2**31 - 1.


@pytest.mark.parametrize(
    "opcodes, message",
    [
        ({"storage": HUGE}, "it has 4 values where there should be 2,147,483,647"),
        ({"shape": HUGE + HUGE + b"\x86", "strides": b"K\0K\0\x86"}, "more values than there are"),
        ({"shape": HUGE + b"\x85", "strides": b"K\0\x85"}, "more values than there are"),
        ({"shape": b"K\x05\x85"}, "more values than there are"),
        ({"shape": b"K\x02\x85", "strides": b"K\x04\x85"}, "more values than there are"),
        ({"shape": b"K\x02K\x02\x86"}, "more values than there are"),
        ({"strides": b"J\xff\xff\xff\xff\x85"}, "made in another way"),
        ({"shape": b"X\x01\0\0\0a\x85"}, "made in another way"),
    ],
)
def test_a_tensor_reaches_no_further_than_its_storage(tmp_path, opcodes, message):
    path = archive(tmp_path / "net.pth", rebuilt(**opcodes))
    assert message in refusal(import_network, config("torchvision", path))


def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_does(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as stream, stream.open("archive/data/0", "w") as member:
        for _ in range(257):
            member.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    assert "would unpack to more than 256 MiB" in refusal(import_network, config("torchvision", path))


@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_files_are_refused(tmp_path, legacy):
    state = {name: torch.from_numpy(array) for name, array in random_tensors(SMALL, "torchvision").items()}
    stream = io.BytesIO()
    save(state, stream, legacy)
    whole, path = stream.getvalue(), tmp_path / "net.pth"
    for size in (0, 1, 3, 4, 15, 21, 100, 1000, 5000, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert refusal(import_network, config("torchvision", path, **ALL_TOLD)).startswith(str(path)), size
    path.write_bytes(whole)
    assert len(weights_of(import_network(config("torchvision", path, **ALL_TOLD))[0])) == len(state)
