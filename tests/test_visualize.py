from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from src import visualize
from src.files.atomic import WriteError

IMAGES = np.arange(35 * 4 * 4 * 3).reshape(35, 4, 4, 3).astype(np.uint8)


def grid_of(figure) -> tuple[int, int]:
    return figure.axes[0].get_subplotspec().get_gridspec().get_geometry()


def titles_of(figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


def legend_of(axes_or_figure) -> list[str]:
    (legend,) = getattr(axes_or_figure, "legends", None) or [axes_or_figure.get_legend()]
    return [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize("count, grid", [(32, (4, 8)), (33, (5, 8)), (8, (1, 8)), (3, (1, 3)), (1, (1, 1))])
def test_image_grid_has_eight_columns_and_as_many_rows_as_it_takes(count, grid):
    figure = visualize.image_grid(IMAGES[:count], [f"t{i}" for i in range(count)], "all of them")
    assert grid_of(figure) == grid and len(figure.axes) == count and figure.get_suptitle() == "all of them"
    assert titles_of(figure) == [f"t{i}" for i in range(count)]
    for axes, image in zip(figure.axes, IMAGES):
        assert np.array_equal(axes.images[0].get_array(), image)


def test_a_grid_without_images_is_still_a_picture(tmp_path):
    visualize.save(visualize.image_grid([], []), tmp_path / "empty.png")
    with Image.open(tmp_path / "empty.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize("count", [1, 5, 32])
def test_title_legend_names_and_images_do_not_overlap(count):
    true = ["dog" if i % 2 else "cat" for i in range(count)]
    names = [f"a_long_name_of_a_file_{i}.png" for i in range(count)]
    title = "32 of 10,000 test images; 87.65% of all are right"
    figure = visualize.prediction_grid(IMAGES[:count], ["dog"] * count, [0.5] * count, true, title, names)
    figure.draw_without_rendering()
    assert figure._suptitle.get_in_layout()  # A notebook cuts off what is not.
    parts = [figure.get_window_extent(), figure._suptitle.get_window_extent(), figure.legends[0].get_window_extent()]
    parts += [axes.get_tightbbox() for axes in figure.axes]
    for i, part in enumerate(parts[1:], 1):
        assert parts[0].x0 <= part.x0 and part.x1 <= parts[0].x1 and parts[0].y0 <= part.y0 and part.y1 <= parts[0].y1
        assert not any(part.overlaps(other) for other in parts[i + 1 :])


@pytest.mark.parametrize("lines", [1, 2])
@pytest.mark.parametrize("count", [10, 32])
def test_rows_of_images_with_titles_alone_do_not_touch(count, lines):
    figure = visualize.image_grid(IMAGES[:count], ["\n".join(["9 (91%)", "true: 5 (2%)"][:lines])] * count, "mistakes")
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    assert all(upper.y0 > lower.y1 for upper, lower in zip(boxes, boxes[8:]))


def test_a_label_is_titled_by_its_class_and_one_of_a_mixed_image_by_the_shares_that_show():
    classes = ["cat", "dog", "a very long name of a class"]
    assert visualize.label_title(np.array(1, np.int32), classes) == "dog"
    assert visualize.label_title(np.array([0, 1, 0], np.float32), classes) == "dog (100%)"
    assert visualize.label_title(np.array([0.3, 0.7, 0], np.float32), classes) == "dog (70%)\ncat (30%)"
    assert visualize.label_title(np.array([0.004, 0, 0.996], np.float32), classes) == "a very long name of… (100%)"


def test_predictions_are_blue_where_right_and_red_with_the_true_class_where_wrong():
    predicted, true = ["cat", "dog", "x" * 30], ["cat", "horse", "x" * 30]
    figure = visualize.prediction_grid(IMAGES[:3], predicted, [0.93, 0.5, 1], true, "three")
    assert titles_of(figure) == ["cat (93%)", "dog (50%)\ntrue: horse", "x" * 19 + "… (100%)"]
    assert [axes.title.get_color() for axes in figure.axes] == ["blue", "red", "blue"]
    assert [patch.get_facecolor() for patch in figure.legends[0].get_patches()] == [(0, 0, 1, 1), (1, 0, 0, 1)]
    assert legend_of(figure) == ["predicted class and confidence: right", "wrong"]


def test_predictions_without_known_classes_are_neither_blue_nor_red_and_name_the_files():
    figure = visualize.prediction_grid(IMAGES[:2], ["cat", "dog"], [0.9, 0.8], names=["a.png", "b" * 40])
    assert [axes.title.get_color() for axes in figure.axes] == ["black", "black"] and not figure.legends
    assert [axes.get_xlabel() for axes in figure.axes] == ["a.png", "b" * 25 + "…"]


def test_learning_curves_have_a_panel_each_for_loss_accuracy_and_rate_over_epochs():
    history = [
        {"step": 5, "epoch": 1, "lr": 0.1, "loss": 2.0, "accuracy": 0.2},
        {"step": 5, "epoch": 1, "val_loss": 1.8, "val_accuracy": 0.3},
        {"step": 10, "epoch": 2, "lr": 0.05, "loss": 1.0, "accuracy": 0.6},
        {"step": 10, "epoch": 2, "val_loss": 1.9, "val_accuracy": 0.25},
    ]
    figure = visualize.learning_curves(history, np.linspace(0, 1, 15, dtype=np.float32), 5, "run x")
    loss, accuracy, rate = figure.axes
    assert figure.get_suptitle() == "run x" and {axes.get_xlabel() for axes in figure.axes} == {"epoch"}
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy (%)", "learning rate"]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in loss.get_lines()}
    assert drawn == {"training": [[1, 2.0], [2, 1.0]], "validation": [[1, 1.8], [2, 1.9]]}
    assert legend_of(accuracy) == ["training", "validation", "best: 30.00%, epoch 1"]
    assert accuracy.get_lines()[2].get_xydata().tolist() == [[1, 30]]
    steps, rates = rate.get_lines()[0].get_data()
    assert len(steps) == 10 and steps[-1] == 2 and rates[0] == 0  # From the first step to the last one done.


def test_learning_curves_without_validation_or_steps_are_drawn():
    rates = np.ones(4, np.float32)
    assert legend_of(visualize.learning_curves([{"step": 2, "loss": 2.0}], rates, 2).axes[0]) == ["training"]
    assert visualize.learning_curves([], rates, 2).axes[0].get_legend() is None


def test_learning_rates_are_drawn_over_epochs_by_name():
    figure = visualize.learning_rates({"linear": np.array([0.1, 0.2, 0.3, 0.4], np.float32), "poly": np.ones(2)}, 2)
    (axes,) = figure.axes
    assert axes.get_lines()[0].get_xdata().tolist() == [0.5, 1, 1.5, 2] and axes.get_xlabel() == "epoch"
    assert legend_of(axes) == ["linear", "poly"]


def test_confusion_matrix_shows_counts_shaded_by_the_share_of_the_true_class_and_accuracies():
    confusion = np.array([[8, 2, 0], [0, 1, 0], [0, 0, 0]])
    figure = visualize.confusion_matrix(confusion, ["cat", "dog", "eel"], "best.ckpt")
    axes, bar = figure.axes
    assert np.allclose(axes.images[0].get_array(), [[80, 20, 0], [0, 100, 0], [0, 0, 0]]) and "%" in bar.get_ylabel()
    texts = {(*map(int, text.get_position()),): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "8", (1, 0): "2", (1, 1): "1"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat (80%)", "dog (100%)", "eel"]
    assert axes.get_title() == "best.ckpt\n81.82% of 11 images right"


def test_a_confusion_matrix_of_many_classes_has_no_numbers():
    figure = visualize.confusion_matrix(np.eye(31, dtype=int), [str(i) for i in range(31)])
    assert len(figure.axes[0].texts) == 0 and figure.axes[0].get_title() == "100.00% of 31 images right"


def test_a_confusion_matrix_without_images_is_still_a_picture():
    assert visualize.confusion_matrix(np.zeros((2, 2), int), ["a", "b"]).axes[0].get_title().startswith("0.00% of 0 ")


def test_a_saved_grid_is_a_png_that_shows_the_pixels_and_leaves_no_other_file(tmp_path):
    red = np.zeros((1, 4, 4, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    visualize.save(visualize.image_grid(red, ["red"]), tmp_path / "red.png")
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
        visualize.save(visualize.image_grid(IMAGES[:1], ["a"]), tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes() == b"former"


def test_activations_stand_beside_their_images():
    figure = visualize.activation_grid(IMAGES[:2], IMAGES[2:4], ["cat", "dog"], [0.9, 0.8], "two", ["a.png", "b.png"])
    assert titles_of(figure) == ["cat (90%)", "class activation", "dog (80%)", "class activation"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["a.png", "", "b.png", ""]
    for panel, image in zip(figure.axes, IMAGES[[0, 2, 1, 3]]):
        assert np.array_equal(panel.images[0].get_array(), image)


def test_an_overlay_is_the_image_where_it_is_cold_and_red_where_it_is_hot():
    image = np.full((2, 2, 3), 100, np.uint8)
    found = visualize.overlay(image, np.array([[0, 0], [0, 1]], np.float32))
    red, green, blue = found[1, 1].astype(int)
    assert found.dtype == np.uint8 and (found[0] == 100).all() and red > green and red > blue


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
    visualize.save(visualize.confusion_matrix(np.eye(3, dtype=int), names), tmp_path / "confusion.png")
    visualize.save(visualize.image_grid(IMAGES[:3], names), tmp_path / "grid.png")
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_a_font_that_has_the_letters_of_the_classes_is_taken(fonts, tmp_path, capsys, recwarn):
    fonts(NoFont=tmp_path / "missing.ttf", Made=font_of(tmp_path / "made.ttf", "狗企鹅"))
    assert visualize.legible(CHINESE) == CHINESE
    visualize.save(visualize.image_grid(IMAGES[:3], CHINESE), tmp_path / "grid.png")
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


@pytest.mark.parametrize("count, images, text", [(32, 10000, "32 of 10,000 images"), (7, 7, "7 images")])
def test_a_title_says_how_many_of_how_many_are_shown(count, images, text):
    assert visualize.some_of(count, images, "images") == text
