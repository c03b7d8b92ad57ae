"""Bars of eval.py and infer.py on a terminal, and warnings beside them."""

from __future__ import annotations

import contextlib
import io
import re

import pytest
from tqdm import tqdm

from src.cli.terminal import images_bar, warn
from src.config import DeviceConfig
from src.inference.classify import infer
from src.inference.config import EvalConfig, InferConfig
from src.inference.evaluation import evaluate_model
from tests.made_models import write_checkpoint
from tests.programs import ROOT

CPU = DeviceConfig(device_target="CPU", mode="pynative")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_shows_on_a_terminal_alone_and_a_warning_has_a_line_of_its_own():
    for stream in (Terminal(), io.StringIO()):
        with contextlib.redirect_stderr(stream), images_bar(4, "classifying") as bar:
            bar.update(2)
            bar.refresh()
            warn("cat.jpg is a dog")
        shown = stream.getvalue()
        assert ("classifying:  50%" in shown) == stream.isatty()
        assert re.search(r"(^|\r)warning: cat.jpg is a dog\n", shown)


@pytest.mark.thorough
@pytest.mark.usefixtures("no_pictures")
def test_evaluation_and_prediction_show_a_bar_over_all_images(tmp_path, monkeypatch, tiny, capsys):
    shown = []

    class Bar(tqdm):
        def __init__(self, images: int, what: str):
            super().__init__(total=images, file=io.StringIO(), desc=what)
            shown.append(self)

    for module in ("classify", "evaluation"):
        monkeypatch.setattr(f"src.inference.{module}.images_bar", Bar)
    digits = str(ROOT / "docs" / "samples" / "digits")
    infer(InferConfig([digits], ckpt_path=str(write_checkpoint(tmp_path)), output_path=str(tmp_path / "out")), CPU)
    model = str(tiny.folder / "best.ckpt")
    evaluate_model(EvalConfig(ckpt_path=model, output_path=str(tmp_path / "e"), batch_size=100), CPU)
    (classifying, evaluating) = shown
    assert classifying.n == classifying.total == 10
    assert evaluating.n >= evaluating.total == 359
    assert f"evaluating {model} on 359 images of digits test" in capsys.readouterr().out
