"""Which device is chosen, with the hardware replaced."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import mindspore as ms
import pytest

from src.cli.errors import UserError
from src.config import DeviceConfig
from src.devices import device
from src.devices.device import is_available, peak_memory_mb, select_device, why_not


@pytest.fixture
def hardware(monkeypatch):
    """A machine whose accelerators are usable or not, as `reasons` says; `chosen` and `asked` are what was called."""
    machine = SimpleNamespace(reasons={"Ascend": "not found", "GPU": "not found"}, chosen=[], asked=[], set_here=[])
    machine.settings, machine.contexts, machine.chip = [], [], "ascend910b"

    def reason(target, device_id):
        machine.asked.append((target, device_id))
        return machine.reasons[target]

    def set_here(target, device_id):
        machine.set_here.append((target, device_id))
        return machine.reasons[target]

    monkeypatch.setattr(device, "chip", lambda: machine.chip)
    monkeypatch.setattr(device, "why_not", reason)
    monkeypatch.setattr(device, "why_unset", set_here)
    monkeypatch.setattr(device, "set_precision", lambda *settings: machine.settings.append(settings))
    monkeypatch.setattr(ms, "set_device", lambda *arguments: machine.chosen.append(arguments))
    monkeypatch.setattr(ms, "set_context", lambda **keys: machine.contexts.append(keys))
    return machine


def test_auto_prefers_an_ascend(hardware, capsys):
    hardware.reasons.update(Ascend=None, GPU=None)
    assert select_device(DeviceConfig(device_id=3)) == "Ascend"
    assert hardware.chosen == [("Ascend", 3)]
    assert hardware.asked == [("Ascend", 3)], "what is not needed is not tried"
    assert capsys.readouterr().out == "device: Ascend\n"


def test_auto_takes_the_next_best_and_says_in_one_line_why(hardware, capsys):
    hardware.reasons.update(Ascend="driver too old", GPU=None)
    assert select_device(DeviceConfig()) == "GPU"
    assert hardware.chosen == [("GPU", 0)]
    assert capsys.readouterr().out == "device: GPU (Ascend: driver too old)\n"


def test_auto_without_accelerators_is_the_cpu_even_when_strict(hardware, capsys):
    assert select_device(DeviceConfig(strict_device=True, device_id=3)) == "CPU"
    assert hardware.chosen == [("CPU",)]
    assert capsys.readouterr().out == "device: CPU (Ascend: not found; GPU: not found)\n"


def test_the_cpu_asked_for_is_taken_without_asking_for_others(hardware, capsys):
    hardware.reasons.update(Ascend=None)
    assert select_device(DeviceConfig(device_target="CPU", strict_device=True)) == "CPU"
    assert hardware.asked == []
    assert capsys.readouterr().out == "device: CPU\n"


@pytest.mark.parametrize("strict", [False, True])
def test_a_device_asked_for_that_works_is_taken(hardware, capsys, strict):
    hardware.reasons.update(Ascend=None, GPU=None)
    assert select_device(DeviceConfig(device_target="GPU", device_id=1, strict_device=strict)) == "GPU"
    assert (hardware.set_here if strict else hardware.chosen) == [("GPU", 1)]
    assert capsys.readouterr().out == "device: GPU\n"


def test_where_no_other_device_will_do_none_is_tried_in_a_process_of_its_own(hardware, monkeypatch):
    """That would import MindSpore and CANN once more, on each of a host's devices at once."""
    hardware.reasons.update(Ascend=None)
    assert select_device(DeviceConfig(device_target="Ascend", strict_device=True)) == "Ascend"
    monkeypatch.setattr(device, "is_worker", lambda: True)
    monkeypatch.setenv("DEVICE_ID", "5")
    assert select_device(DeviceConfig(device_target="Ascend")) == "Ascend"
    assert hardware.set_here == [("Ascend", 0), ("Ascend", 5)] and not hardware.asked and not hardware.chosen


def test_kernels_are_fused_on_an_ascend_and_as_asked_for(hardware):
    def chosen(**keys) -> list:
        hardware.contexts.clear()
        select_device(DeviceConfig(**keys))
        return [keys["jit_config"]["jit_level"] for keys in hardware.contexts if "jit_config" in keys]

    hardware.reasons.update(Ascend=None)
    assert chosen() == ["O1"] and chosen(jit_level="O2") == ["O2"]
    hardware.chip = "ascend910"  # The first 910, where MindSpore lets CANN compile the whole graph.
    assert chosen() == [] and chosen(jit_level="O0") == ["O0"]
    hardware.chip = "ascend910_93"
    assert chosen(device_target="CPU") == []
    assert chosen(precision="high") == ["O1"] and hardware.settings[-1] == ("Ascend", "high")


@pytest.mark.parametrize("ascend, best", [(None, "Ascend"), ("no driver", "CPU")])
def test_a_device_asked_for_that_is_not_there_falls_back_to_the_best_with_a_warning(hardware, capsys, ascend, best):
    hardware.reasons.update(Ascend=ascend)
    assert select_device(DeviceConfig(device_target="GPU")) == best
    others = "; Ascend: no driver" if ascend else ""
    expected = f"warning: device_target GPU is not usable, running on {best} (GPU: not found{others})\n"
    assert capsys.readouterr().out == expected
    # A try can take minutes.
    assert hardware.asked == [("GPU", 0), ("Ascend", 0)]


@pytest.mark.parametrize("target", ["Ascend", "GPU"])
def test_strict_device_stops_before_anything_is_set(hardware, target):
    hardware.reasons[target] = "no driver"
    with pytest.raises(UserError, match=f"^device_target: {target}: no driver; see what .*smi.* --device_target CPU"):
        select_device(DeviceConfig(device_target=target, strict_device=True))
    assert hardware.chosen == []


def test_a_device_id_in_the_environment_that_is_not_read_is_said(hardware, monkeypatch, capsys):
    """The model zoo's scripts choose a device by it; the processes of a group have it from the launcher."""
    hardware.reasons.update(Ascend=None)
    monkeypatch.setenv("DEVICE_ID", "3")
    select_device(DeviceConfig())
    warning = "warning: DEVICE_ID=3 is not read, running on device 0: give --device_id 3\n"
    assert capsys.readouterr().out == "device: Ascend\n" + warning
    for config in (DeviceConfig(device_id=3), DeviceConfig(device_target="CPU")):
        select_device(config)
        assert "DEVICE_ID" not in capsys.readouterr().out
    monkeypatch.setattr(device, "is_worker", lambda: True)
    select_device(DeviceConfig(device_target="Ascend"))
    assert "DEVICE_ID" not in capsys.readouterr().out


@pytest.mark.parametrize("name, mode", [("pynative", ms.PYNATIVE_MODE), ("graph", ms.GRAPH_MODE)])
def test_the_execution_mode_is_set(hardware, name, mode):
    select_device(DeviceConfig(mode=name))
    assert {"mode": mode} in hardware.contexts
    assert DeviceConfig().mode == "graph"


def test_a_device_that_mindspore_does_not_know_is_not_tried(monkeypatch):
    monkeypatch.setattr(device, "is_available", lambda target: False)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it was tried"))
    assert why_not("Ascend", 0) == "not found"


@pytest.fixture
def found(monkeypatch):
    """MindSpore finds every device."""
    monkeypatch.setattr(device, "is_available", lambda target: True)


def test_a_device_that_runs_an_operator_is_usable(found):
    assert why_not("CPU", 0) is None


def test_a_device_that_does_not_answer_in_time_is_not_usable(found, monkeypatch):
    monkeypatch.setattr(device, "PROBE_SECONDS", 0.01)
    assert why_not("CPU", 0) == "no answer within 0.01 s"


@pytest.mark.parametrize(
    "program, reason",
    [
        ("raise SystemExit('Traceback\\nRuntimeError: no driver\\n')", "RuntimeError: no driver"),
        # As MindSpore 2.8 ends when CANN refuses a device.
        (
            "raise SystemExit('RuntimeError: Call aclrtSetDevice failed, ret[507033]. Please check if device id is "
            "valid\\n\\n- Ascend Error Message:\\nEE1001: The argument is invalid.\\n\\n- C++ Call Stack:\\n"
            "mindspore/ccsrc/ascend_hal_manager.cc:67 InitDevice\\n')",
            "RuntimeError: Call aclrtSetDevice failed, ret[507033]. Please check if device id is valid "
            "(EE1001: The argument is invalid.)",
        ),
        ("raise SystemExit('x' * 500)", "x" * 200),
        ("raise SystemExit(3)", "exit status 3"),
        ("import os; os.kill(os.getpid(), 11)", "exit status -11"),
    ],
)
def test_a_try_that_fails_gives_the_error_and_the_devices_own_words_or_its_status(found, monkeypatch, program, reason):
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda _, **options: run([sys.executable, "-S", "-c", program], **options))
    assert why_not("GPU", 0) == reason


def test_the_try_runs_on_the_device_asked_for(found, monkeypatch):
    tried = []
    done = SimpleNamespace(returncode=0)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: tried.append(command) or done)
    assert why_not("Ascend", 5) is None
    assert "set_device('Ascend', 5)" in tried[0][-1]


def test_asking_for_a_device_prints_nothing(capfd):
    for target in ("Ascend", "GPU", "CPU"):
        is_available(target)
    assert is_available("CPU")
    assert capfd.readouterr() == ("", "")


def test_output_is_back_after_asking_for_a_device(capfd):
    is_available("CPU")
    subprocess.run([sys.executable, "-S", "-c", "print('heard')"], check=True)
    print("here", flush=True)
    assert capfd.readouterr().out == "heard\nhere\n"


def test_peak_memory_is_in_mebibytes():
    # A process that has imported MindSpore: more than 50 MiB, less than 100 GiB.
    assert 50 < peak_memory_mb("CPU") < 100_000
