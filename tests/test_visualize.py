from __future__ import annotations

import matplotlib.colors
import numpy as np
import pytest
from PIL import Image

from src import visualize
from src.files.atomic import WriteError

IMAGES = np.arange(35 * 4 * 4 * 3).reshape(35, 4, 4, 3).astype(np.uint8)


@pytest.fixture
def figures(monkeypatch):
    """The figures that would have been saved, with their paths."""
    kept = []
    monkeypatch.setattr(visualize, "save", lambda figure, path: kept.append((figure, path)))
    return kept


def grid_of(figure) -> tuple[int, int]:
    return figure.axes[0].get_subplotspec().get_gridspec().get_geometry()


@pytest.mark.parametrize("count, grid", [(32, (4, 8)), (33, (5, 8)), (8, (1, 8)), (3, (1, 3)), (1, (1, 1))])
def test_image_grid_has_eight_columns_and_as_many_rows_as_it_takes(figures, tmp_path, count, grid):
    visualize.image_grid(tmp_path / "grid.png", IMAGES[:count], [f"t{i}" for i in range(count)])
    ((figure, path),) = figures
    assert path == tmp_path / "grid.png" and grid_of(figure) == grid and len(figure.axes) == count
    assert [axes.get_title() for axes in figure.axes] == [f"t{i}" for i in range(count)]
    for axes, image in zip(figure.axes, IMAGES):
        assert np.array_equal(axes.images[0].get_array(), image)


def test_a_grid_without_images_is_still_a_picture(tmp_path):
    visualize.image_grid(tmp_path / "empty.png", [], [])
    with Image.open(tmp_path / "empty.png") as picture:
        assert picture.format == "PNG"


def test_a_label_is_titled_by_its_class_and_one_of_a_mixed_image_by_the_shares_that_show():
    classes = ["cat", "dog", "a very long name of a class"]
    assert visualize.label_title(np.array(1, np.int32), classes) == "dog"
    assert visualize.label_title(np.array([0, 1, 0], np.float32), classes) == "dog 100%"
    assert visualize.label_title(np.array([0.3, 0.7, 0], np.float32), classes) == "dog 70%\ncat 30%"
    assert visualize.label_title(np.array([0.004, 0, 0.996], np.float32), classes) == "a very long name of… 100%"


def test_predictions_are_titled_by_class_in_blue_where_right_and_red_where_wrong(figures, tmp_path):
    visualize.prediction_grid(tmp_path / "p.png", IMAGES[:3], ["cat", "dog", "x" * 30], np.array([True, False, True]))
    axes = figures[0][0].axes
    assert [a.get_title() for a in axes] == ["predict:cat", "predict:dog", "predict:" + "x" * 19 + "…"]
    assert [a.title.get_color() for a in axes] == ["blue", "red", "blue"]


def test_predictions_without_known_classes_are_neither_blue_nor_red(figures, tmp_path):
    visualize.prediction_grid(tmp_path / "p.png", IMAGES[:2], ["cat", "dog"])
    assert [a.title.get_color() for a in figures[0][0].axes] == ["black", "black"]


def test_learning_curves_have_a_panel_each_for_loss_accuracy_and_rate(figures, tmp_path):
    history = [
        {"step": 5, "epoch": 1, "lr": 0.1, "loss": 2.0, "accuracy": 0.2},
        {"step": 5, "epoch": 1, "val_loss": 1.8, "val_accuracy": 0.3},
        {"step": 10, "epoch": 2, "lr": 0.05, "loss": 1.0, "accuracy": 0.6},
    ]
    visualize.learning_curves(tmp_path / "curves.png", history)
    loss, accuracy, rate = figures[0][0].axes
    assert [a.get_title() for a in (loss, accuracy, rate)] == ["loss", "accuracy", "learning rate"]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in loss.get_lines()}
    assert drawn == {"training": [[5, 2.0], [10, 1.0]], "validation": [[5, 1.8]]}
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == ["training", "validation"]
    assert rate.get_lines()[0].get_ydata().tolist() == [0.1, 0.05] and rate.get_legend() is None


def test_learning_rate_is_drawn_over_epochs(figures, tmp_path):
    visualize.learning_rate(tmp_path / "rate.png", np.array([0.1, 0.2, 0.3, 0.4], np.float32), 2)
    (axes,) = figures[0][0].axes
    assert axes.get_lines()[0].get_xdata().tolist() == [0, 0.5, 1, 1.5] and axes.get_xlabel() == "epoch"


def test_confusion_matrix_shows_counts_shaded_by_the_share_of_the_true_class(figures, tmp_path):
    confusion = np.array([[8, 2, 0], [0, 1, 0], [0, 0, 0]])
    visualize.confusion_matrix(tmp_path / "c.png", confusion, ["cat", "dog", "eel"])
    (axes,) = figures[0][0].axes
    assert np.allclose(axes.images[0].get_array(), [[0.8, 0.2, 0], [0, 1, 0], [0, 0, 0]])
    texts = {(*map(int, text.get_position()),): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "8", (1, 0): "2", (1, 1): "1"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "eel"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")


def test_a_confusion_matrix_of_many_classes_has_no_numbers(figures, tmp_path):
    visualize.confusion_matrix(tmp_path / "c.png", np.eye(31, dtype=int), [str(i) for i in range(31)])
    assert len(figures[0][0].axes[0].texts) == 0


def test_a_saved_grid_is_a_png_that_shows_the_pixels_and_leaves_no_other_file(tmp_path):
    red = np.zeros((1, 4, 4, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    visualize.image_grid(tmp_path / "red.png", red, ["red"])
    assert [file.name for file in tmp_path.iterdir()] == ["red.png"]
    with Image.open(tmp_path / "red.png") as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("RGB"))
    assert (pixels == (255, 0, 0)).all(-1).mean() > 0.2


def test_a_picture_that_cannot_be_saved_leaves_the_former_one(tmp_path, monkeypatch):
    (tmp_path / "grid.png").write_bytes(b"former")

    def fail(self, file, **options):
        raise OSError("no space left")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(WriteError, match="no space left"):
        visualize.image_grid(tmp_path / "grid.png", IMAGES[:1], ["a"])
    assert (tmp_path / "grid.png").read_bytes() == b"former"


def test_activations_stand_beside_their_images(figures, tmp_path):
    visualize.activation_grid(tmp_path / "a.png", IMAGES[:2], IMAGES[2:4], ["cat", "dog"])
    axes = figures[0][0].axes
    assert [a.get_title() for a in axes] == ["predict:cat", "seen here", "predict:dog", "seen here"]
    for panel, image in zip(axes, IMAGES[[0, 2, 1, 3]]):
        assert np.array_equal(panel.images[0].get_array(), image)


def test_an_overlay_is_the_image_where_it_is_cold_and_red_where_it_is_hot():
    image = np.full((2, 2, 3), 100, np.uint8)
    found = visualize.overlay(image, np.array([[0, 0], [0, 1]], np.float32))
    red, green, blue = found[1, 1].astype(int)
    assert found.dtype == np.uint8 and (found[0] == 100).all() and red > green and red > blue


def test_runs_are_drawn_over_minutes(figures, tmp_path):
    visualize.accuracy_over_time(tmp_path / "c.png", {"a": [(60, 0.5), (120, 0.7)], "b": [(30, 0.2)]})
    (axes,) = figures[0][0].axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert drawn == {"a": [[1, 0.5], [2, 0.7]], "b": [[0.5, 0.2]]} and axes.get_xlabel() == "minutes"


def test_right_and_wrong_are_colours_that_matplotlib_knows():
    assert matplotlib.colors.is_color_like(visualize.RIGHT) and matplotlib.colors.is_color_like(visualize.WRONG)


CHINESE = ("cat", "狗", "企鹅")


@pytest.fixture
def fonts(monkeypatch):
    """Set the fonts that are installed, as files by name, and forget what was found before."""
    from matplotlib import font_manager, rcParams

    default = [font for font in font_manager.fontManager.ttflist if font.name == "DejaVu Sans"]

    def install(**files):
        entries = [font_manager.FontEntry(fname=str(file), name=name) for name, file in files.items()]
        monkeypatch.setattr(font_manager.fontManager, "ttflist", [*default, *entries])
        visualize.legible.cache_clear()

    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    monkeypatch.setitem(rcParams, "font.family", rcParams["font.family"])
    yield install
    visualize.legible.cache_clear()


def test_class_names_that_no_font_has_are_numbers_with_a_legend(fonts, tmp_path, capsys, recwarn):
    fonts()
    for _ in range(2):
        names = visualize.legible(CHINESE)
    assert names == ("cat", "#1", "#2")
    assert capsys.readouterr().out == (
        "no installed font has the letters of some classes, which have numbers in the pictures: #1 狗, #2 企鹅\n"
    )
    visualize.confusion_matrix(tmp_path / "confusion.png", np.eye(3, dtype=int), names)
    visualize.image_grid(tmp_path / "grid.png", IMAGES[:3], names)
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_a_font_that_has_the_letters_of_the_classes_is_taken(fonts, tmp_path, capsys, recwarn):
    fonts(NoFont=tmp_path / "missing.ttf", Made=font_of(tmp_path / "made.ttf", "狗企鹅"))
    assert visualize.legible(CHINESE) == CHINESE
    visualize.image_grid(tmp_path / "grid.png", IMAGES[:3], CHINESE)
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
    assert capsys.readouterr().out == ""


def test_latin_names_are_left_to_the_usual_font(fonts):
    from matplotlib import rcParams

    before = rcParams["font.family"]
    fonts()
    assert visualize.legible(("Käfer", "été", "a\nb")) == ("Käfer", "été", "a\nb") and rcParams["font.family"] == before


def font_of(file, letters):
    """Write a font of square letters."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    for move, point in zip((pen.moveTo, pen.lineTo, pen.lineTo), ((0, 0), (500, 0), (500, 500))):
        move(point)
    pen.closePath()
    names, glyph = [".notdef", *(f"u{ord(letter):04X}" for letter in letters)], pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): name for letter, name in zip(letters, names[1:])})
    builder.setupGlyf(dict.fromkeys(names, glyph))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (600, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Made", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800)
    builder.setupPost()
    builder.save(file)
    return file
