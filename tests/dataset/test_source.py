import io

import numpy as np
import pytest
from PIL import Image

from src.cli import errors
from src.dataset import evaluation_pipeline
from src.dataset.preprocessing import Preprocessing
from src.dataset.source import ArraySource, FileSource, Part, Subset, load_image, printable, split_by_class
from tests.made_data import read_all, refusal

PIXELS = np.random.RandomState(0).randint(0, 256, (6, 5, 3)).astype(np.uint8)
GREY = np.arange(30, dtype=np.uint8).reshape(6, 5) * 8


def saved(path, image, **options):
    Image.fromarray(image).save(path, **options) if isinstance(image, np.ndarray) else image.save(path, **options)
    return path


def repeated(grey):
    return np.repeat(grey[..., None], 3, axis=-1)


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tiff"])
def test_colour_images_come_out_as_they_went_in(tmp_path, suffix):
    image = load_image(saved(tmp_path / f"a.{suffix}", PIXELS))
    np.testing.assert_array_equal(image, PIXELS)
    assert image.dtype == np.uint8


@pytest.mark.parametrize("suffix", ["png", "pgm", "bmp", "gif"])
def test_grey_is_repeated_on_three_channels(tmp_path, suffix):
    np.testing.assert_array_equal(load_image(saved(tmp_path / f"a.{suffix}", GREY)), repeated(GREY))


def test_black_and_white_is_0_and_255(tmp_path):
    bits = Image.fromarray(GREY > 100)
    assert bits.mode == "1"
    np.testing.assert_array_equal(load_image(saved(tmp_path / "a.png", bits)), repeated((GREY > 100) * np.uint8(255)))


def test_alpha_is_dropped(tmp_path):
    alpha = np.concatenate([PIXELS, np.zeros((6, 5, 1), np.uint8)], axis=-1)
    np.testing.assert_array_equal(load_image(saved(tmp_path / "a.png", alpha)), PIXELS)
    grey_alpha = np.stack([GREY, np.full_like(GREY, 9)], axis=-1)
    np.testing.assert_array_equal(load_image(saved(tmp_path / "b.png", grey_alpha)), repeated(GREY))


def test_palette_indices_are_looked_up(tmp_path):
    palette = Image.fromarray(PIXELS).convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
    np.testing.assert_array_equal(load_image(saved(tmp_path / "a.png", palette)), PIXELS)


def test_cmyk_is_converted(tmp_path):
    cmyk = Image.new("CMYK", (5, 6), (0, 255, 255, 0))
    image = load_image(saved(tmp_path / "a.jpg", cmyk))
    np.testing.assert_allclose(image, np.broadcast_to([255, 0, 0], (6, 5, 3)), atol=3)


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bits_are_scaled_to_8(tmp_path, suffix):
    deep = GREY.astype(np.uint16) * 256 + 77
    path = tmp_path / f"a.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 5 6 65535\n" + deep.astype(">u2").tobytes())
    else:
        saved(path, deep)
    np.testing.assert_array_equal(load_image(path), repeated(GREY))


def test_one_pixel_is_an_image(tmp_path):
    assert load_image(saved(tmp_path / "a.png", PIXELS[:1, :1])).shape == (1, 1, 3)


@pytest.mark.parametrize("suffix", ["jpg", "gif", "bmp"])
def test_the_content_counts_and_not_the_suffix(tmp_path, suffix):
    saved(tmp_path / "a.png", PIXELS)
    path = (tmp_path / "a.png").rename(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(load_image(path), PIXELS)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
def test_an_image_is_turned_upright_as_its_exif_entry_says(tmp_path, suffix, orientation):
    """EXIF 2.3, tag 0x0112: where the stored image's row 0 and column 0 belong in the image that is shown."""
    stored = {
        1: PIXELS,
        2: PIXELS[:, ::-1],
        3: PIXELS[::-1, ::-1],
        4: PIXELS[::-1],
        5: PIXELS.transpose(1, 0, 2),
        6: PIXELS.transpose(1, 0, 2)[::-1],
        7: PIXELS.transpose(1, 0, 2)[::-1, ::-1],
        8: PIXELS.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", np.ascontiguousarray(stored), exif=exif, **options)
    np.testing.assert_array_equal(load_image(path), PIXELS)


def _of_many_kinds(folder):
    """Return files of one image: colours, grey, 16 bits, a palette, alpha, CMYK, and one that lies on its side."""
    turned = Image.Exif()
    turned[0x0112] = 6
    alpha = np.concatenate([PIXELS, np.full((6, 5, 1), 9, np.uint8)], axis=-1)
    return [
        saved(folder / "colour.jpg", PIXELS),
        saved(folder / "grey.jpg", GREY),
        saved(folder / "16bits.png", Image.fromarray(GREY.astype(np.uint16) * 257)),
        saved(folder / "palette.gif", Image.fromarray(PIXELS).convert("P", palette=Image.Palette.ADAPTIVE)),
        saved(folder / "alpha.png", alpha),
        saved(folder / "cmyk.jpg", Image.fromarray(PIXELS).convert("CMYK")),
        saved(folder / "turned.jpg", np.ascontiguousarray(np.rot90(PIXELS)), exif=turned),
    ]


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_part_is_that_of_the_whole_image_in_every_kind_of_source(tmp_path, mirrored):
    files = _of_many_kinds(tmp_path)
    asked = []

    def choice(height, width):
        asked.append((height, width))
        return Part(1, 2, 4, 3, mirrored)

    from_files = FileSource(files, [0] * len(files), ["a"])
    arrays = ArraySource(np.stack([PIXELS, PIXELS[::-1]]), [0, 0], ["a"], (0.5,) * 3, (0.5,) * 3)
    for source in (from_files, arrays, Subset(from_files, np.arange(3)), Subset(arrays, np.array([1]))):
        for index in range(len(source)):
            expected = source.image(index)[1:5, 2:5]
            found = source.image(index, choice)
            assert found.flags["C_CONTIGUOUS"]
            np.testing.assert_array_equal(found, expected[:, ::-1] if mirrored else expected)
    assert set(asked) == {(6, 5)}


@pytest.mark.parametrize("exif", [b"", b"Exif\x00\x00", b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff", b"\xff" * 50])
def test_an_exif_entry_that_cannot_be_read_is_passed_over(tmp_path, exif):
    plain, damaged = (saved(tmp_path / f"{i}.jpg", PIXELS, exif=content) for i, content in enumerate((b"", exif)))
    np.testing.assert_array_equal(load_image(damaged), load_image(plain))


def test_floating_point_pixels_are_refused_as_their_range_is_not_known(tmp_path):
    path = saved(tmp_path / "a.tiff", Image.fromarray(GREY.astype(np.float32) / 255))
    assert refusal(load_image, path) == f"{path}: floating-point pixels of unknown range; save it with 8 bits"


@pytest.mark.parametrize("name", ["new\nline.png", "\x1b[31mred.png", "\udcff\udcfe.png", "left\u202eright.png"])
def test_a_name_that_cannot_be_printed_is_shown_escaped_on_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"no image")
    message = refusal(load_image, tmp_path / name)
    assert message.isprintable() and message == f"{tmp_path / printable(name)}: not an image; remove it or replace it"


@pytest.mark.parametrize("content", [b"", b"\x00", b"just text", b"<svg></svg>" * 50, bytes(range(256)) * 20])
def test_a_file_that_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert refusal(load_image, path) == f"{path}: not an image; remove it or replace it"


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tiff", "webp"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_image_is_named(tmp_path, suffix, share):
    large = np.random.RandomState(1).randint(0, 256, (64, 64, 3)).astype(np.uint8)
    path = saved(tmp_path / f"a.{suffix}", large)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    message = refusal(load_image, path)
    assert message.startswith(f"{path}: ") and message.endswith("remove it or replace it")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "ppm", "webp"])
def test_an_image_with_flipped_bytes_is_read_or_named_and_nothing_else(tmp_path, suffix):
    path = saved(tmp_path / f"a.{suffix}", PIXELS)
    content, random = path.read_bytes(), np.random.RandomState(0)
    for _ in range(100):
        damaged = bytearray(content)
        for position in random.randint(0, len(content), 3):
            damaged[position] = random.randint(256)
        path.write_bytes(damaged)
        try:
            assert load_image(path).shape[2] == 3
        except errors.UserError as error:
            assert str(error).startswith(f"{path}: ")


def test_an_error_that_pillow_does_not_announce_names_the_file_too(tmp_path, monkeypatch):
    def broken(image, mode):
        raise TypeError("'float' object cannot be interpreted as an integer")  # From a TIFF with flipped bytes.

    path = saved(tmp_path / "a.tif", PIXELS[..., 0])
    monkeypatch.setattr(Image.Image, "convert", broken)
    assert refusal(load_image, path).startswith(f"{path}: cannot read the image")


def test_a_decompression_bomb_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    path = saved(tmp_path / "a.png", PIXELS)
    assert str(path) in refusal(load_image, path)


@pytest.mark.parametrize("name", ["broken.jpg", "a b.jpg", "狗é.jpg", "new\nline.jpg"])
@pytest.mark.parametrize("good_before", [0, 5])
def test_a_bad_image_inside_a_running_pipeline_ends_in_the_same_line(tmp_path, name, good_before):
    good, bad = saved(tmp_path / "good.png", PIXELS), tmp_path / name
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(buffer, "JPEG")
    bad.write_bytes(buffer.getvalue()[:-100])
    with pytest.raises(errors.UserError) as raised:
        load_image(bad)
    source = FileSource([good] * good_before + [bad, good], [0] * (good_before + 2), ["a"])
    pipeline = evaluation_pipeline(source, Preprocessing(8, "resize", "dataset", source.mean, source.std), 2)
    with pytest.raises(RuntimeError) as inside:
        read_all(pipeline)
    assert str(errors.user_error_within(inside.value)) == str(raised.value)


def test_a_bug_inside_a_running_pipeline_stays_a_bug():
    class Broken(ArraySource):
        def image(self, index, choice=None):
            return self.images[index + len(self)]

    source = Broken(PIXELS[None], [0], ["a"], (0, 0, 0), (1, 1, 1))
    pipeline = evaluation_pipeline(source, Preprocessing(8, "resize", "dataset", source.mean, source.std), 1)
    with pytest.raises(RuntimeError) as raised:
        read_all(pipeline)
    assert errors.user_error_within(raised.value) is None


def test_a_subset_has_the_chosen_images_with_their_labels_and_names():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    source = ArraySource(images, [4, 3, 2, 1, 0], list("abcde"), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    subset = Subset(Subset(source, np.array([4, 0, 2])), np.array([2, 0]))
    assert [int(subset.image(i)[0, 0, 0]) for i in range(len(subset))] == [2, 4]
    assert subset.labels.tolist() == [2, 0]
    assert [subset.name(i) for i in range(2)] == ["#2", "#4"]
    assert (subset.classes, subset.mean, subset.std) == (source.classes, source.mean, source.std)


def test_split_by_class_draws_the_same_images_every_time_and_parts_them_all():
    labels = np.arange(30) % 3
    chosen, others = split_by_class(labels, np.array([2, 0, 7]))
    assert np.bincount(labels[chosen], minlength=3).tolist() == [2, 0, 7]
    np.testing.assert_array_equal(np.sort(np.concatenate([chosen, others])), np.arange(30))
    np.random.seed(5)
    np.testing.assert_array_equal(split_by_class(labels, np.array([2, 0, 7]))[0], chosen)
