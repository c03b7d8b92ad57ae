"""What is said while something large is read."""

from __future__ import annotations

from src.cli import patience
from src.dataset.image_csv import open_image_csv
from src.dataset.image_files import image_files
from src.dataset.image_folder import open_image_folder


def test_a_long_reading_says_every_few_seconds_how_far_it_is(monkeypatch, capsys):
    seconds = iter(range(0, 1000, 2))
    monkeypatch.setattr(patience.time, "monotonic", lambda: next(seconds))
    assert list(patience.announced("abcdefgh", "letters")) == list("abcdefgh")
    assert capsys.readouterr().err == "letters: 3 so far\nletters: 6 so far\n"


def test_a_short_reading_says_nothing(capsys):
    assert list(patience.announced(range(10_000), "numbers")) == list(range(10_000))
    assert capsys.readouterr().err == ""


def test_tables_folders_and_classes_are_announced(monkeypatch, tmp_path, capsys):
    for name in ("ant", "bee", "cow"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "1.png").touch()
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "1.png").touch()
    (tmp_path / "val.csv").write_text("image,label\n1.png,ant\n1.png,bee\n")
    monkeypatch.setattr(patience, "SECONDS", -1)
    image_files(tmp_path / "train")
    open_image_folder(tmp_path, "train")
    open_image_csv(tmp_path, "val", ("image", "label"))
    said = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'train'}: images: 3 so far" in said
    assert f"{tmp_path / 'train'}: class folders: 3 so far" in said
    assert f"{tmp_path / 'val.csv'}: rows: 2 so far" in said
