"""Run programs of the project in this process, and say on stderr which graphs MindSpore compiles and what it calls.

    python tests/ascend/worker.py '[{"argv": ["train.py", "--epochs", "2"]}, {"argv": ["eval.py", ...]}]'

kernels.py starts it, on the stand-in. Each line of MARK and JSON stands where it belongs among the lines of MindSpore's
own log, which names the kernels. "signal_at": a step after which the process gets SIGTERM, in the last request alone.
"""

import itertools
import json
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)
# As signals.watch does in train.py, before MindSpore starts threads.
signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))

import src  # noqa: E402, F401  Before mindspore, as every entry point does.
from src.devices import device, processes  # noqa: E402
from src.inference import export  # noqa: E402
from tests.ascend.kernels import MARK  # noqa: E402

# isort: split
import mindspore as ms  # noqa: E402
import numpy as np  # noqa: E402
from mindspore.common import api  # noqa: E402


def say(event: str, **values: object) -> None:
    """Write one marked line, at once."""
    os.write(2, (f"{MARK}{json.dumps({'event': event, **values})}\n").encode())


class Witness(ms.Callback):
    """Say when MindSpore calls a callback of Model.train, and send the signal that was asked for."""

    def __init__(self, signal_at: "int | None"):
        super().__init__()
        self.signal_at = signal_at

    def on_train_step_end(self, run_context):
        step = run_context.original_args().cur_step_num
        say("step_end", step=step)
        if self.signal_at is not None and step >= self.signal_at:
            self.signal_at = None
            os.kill(os.getpid(), signal.SIGTERM)

    def on_train_epoch_end(self, run_context):
        say("epoch_end", step=run_context.original_args().cur_step_num)


def watch(request: dict) -> None:
    """Have MindSpore's compiler, Model.train and Model.eval say what they do."""
    compiling = itertools.count()

    def compile_said(self, obj, *args, phase="predict", **options):
        number = next(compiling)
        say("compile", number=number, network=type(obj).__name__, phase=phase.split(".")[0])
        try:
            return _compile(self, obj, *args, phase=phase, **options)
        finally:
            say("compiled", number=number)

    def train_said(self, epoch, train_dataset, callbacks=None, dataset_sink_mode=False, **options):
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []
        sink_size = options.get("sink_size", -1)
        say("train", sink=dataset_sink_mode, sink_size=sink_size, batches=train_dataset.get_dataset_size())
        callbacks = [Witness(request.get("signal_at")), *callbacks]  # First: the signal is for this step.
        return _train(self, epoch, train_dataset, callbacks, dataset_sink_mode, **options)

    def eval_said(self, valid_dataset, *args, **options):
        say("eval", sink=options.get("dataset_sink_mode", False), batches=valid_dataset.get_dataset_size())
        return _eval(self, valid_dataset, *args, **options)

    def compared(*arguments):
        try:
            return _compare(*arguments)
        except RuntimeError as error:  # Nothing is computed: the two outputs are what memory happened to hold.
            if "differs from the network" not in str(error):
                raise
            return 0.0

    api._CellGraphExecutor.compile, ms.Model.train, ms.Model.eval = compile_said, train_said, eval_said
    export._largest_difference = compared


def simulate() -> None:
    """Make up for what MindSpore's simulation of one process of several has not.

    The chip has no name there. There is no cluster to join: MS_ROLE, by which the project knows that it is one of
    several, is kept from MindSpore. And what the processes tell one another outside of graphs would be zeros: here the
    others say 0, and the sum is what this one says.
    """
    init = processes.init

    def init_without_cluster(*args, **options):
        role = os.environ.pop("MS_ROLE")
        init(*args, **options)
        os.environ["MS_ROLE"] = role

    device.chip = lambda: "ascend910b"
    processes.init = init_without_cluster
    processes.ProcessGroup.sum = lambda self, values: np.asarray(values, np.float32)


_compile, _train, _eval = api._CellGraphExecutor.compile, ms.Model.train, ms.Model.eval
_compare = export._largest_difference


def main() -> None:
    if "MS_SIMULATION_LEVEL" in os.environ:
        simulate()
    for request in json.loads(sys.argv[1]):
        print(MARK, flush=True)  # Parts the programs' outputs.
        say("program", argv=request["argv"])
        watch(request)
        sys.argv = [str(part) for part in request["argv"]]
        status = 0
        try:
            runpy.run_path(str(ROOT / sys.argv[0]), run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        say("status", status=status)


if __name__ == "__main__":
    main()
