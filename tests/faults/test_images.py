"""Images from strangers: each is read as it should be, or named; the others are not held up."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from src.dataset.image_csv import open_image_csv
from src.dataset.image_folder import open_image_folder
from src.dataset.source import load_image, printable
from tests.made_data import refusal
from tests.programs import ROOT, one_line_error

PIXELS = np.random.RandomState(0).randint(0, 256, (40, 30, 3)).astype(np.uint8)
GREY = PIXELS[..., 0]
ALPHA = np.full((40, 30, 1), 128, np.uint8)
# An image of Pillow's limit of 179 million pixels, three bytes each, and its copy; without the limit, gigabytes.
MEMORY = 256 << 20
ODD_NAMES = {
    "spaces": b" a  b .png",
    "newlines": b"a\nerror: b\r\n.png",
    "quotes": b"a'b\"c`d$e\\f.png",
    "bytes that are not UTF-8": b"a\xff\xfe\x80.png",
    "a name in Latin-1": b"\xe9t\xe9.png",
    "a leading dash": b"-rf --help.png",
    "emoji": "🐈‍⬛.png".encode(),
    "right to left": "א\u202egnp.exe.png".encode(),
    "255 bytes": b"x" * 251 + b".png",
    "an escape sequence": b"\x1b[2J\x1b]0;evil\x07.png",
    "brackets": b"[a, b].png",
    "a flag": b"--ckpt_path=x.png",
    "shell": b"$(touch ran);&|*?.png",
    "braces and percent": b"{0}%s%n{config.ckpt_path}.png",
    "control characters": bytes(range(1, 32)) + b".png",
    "null": b"null.png",
    "a line separator": "a\u2028b\u0085c.png".encode(),
}


def encoded(image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int, content: bytes = b"", color: int = 2, depth: int = 8) -> bytes:
    """A PNG that claims a size, with this compressed content."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)),
        (b"IDAT", content),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def bombs() -> dict[str, bytes]:
    """Images that claim far more pixels, or hold far more of something else, than they have bytes."""
    text = b"\x89PNG\r\n\x1a\n" + png(8, 8)[8:33]
    zeros = zlib.compress(bytes(256 << 20), 9)
    chunk = b"zTXt" + b"comment\0\0" + zeros
    text += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png(8, 8)[33:]
    jpeg, gif = bytearray(encoded(PIXELS, "JPEG")), bytearray(encoded(GREY, "GIF"))
    frame = jpeg.find(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    gif[6:10] = b"\xff\xff\xff\xff"
    bmp = bytearray(encoded(PIXELS, "BMP"))
    bmp[18:26] = struct.pack("<ii", 1 << 20, 1 << 20)
    tiff = encoded(PIXELS, "TIFF").replace(
        struct.pack("<HHIHH", 256, 4, 1, 30, 0), struct.pack("<HHII", 256, 4, 1, 1 << 30)
    )
    narrow = zlib.compress(b"".join(b"\0" + bytes(3) for _ in range(100_000)))
    return {
        "a PNG of 50,000x50,000": png(50_000, 50_000, zeros),
        "a PNG of 50,000x50,000 in black and white": png(50_000, 50_000, zeros, 0, 1),
        "a PNG of 2^31 pixels a side": png((1 << 31) - 1, (1 << 31) - 1, zeros),
        "a PNG of no width": png(0, 10, zeros),
        "a PNG of 1x100,000": png(1, 100_000, narrow),
        "a PNG with a comment of 256 MiB": text,
        "a JPEG of 65,535x65,535": bytes(jpeg),
        "a GIF of 65,535x65,535": bytes(gif),
        "a BMP of 2^40 pixels": bytes(bmp),
        "a TIFF of 2^30 pixels a line": tiff,
        "a PPM of 10^10 pixels": b"P6 100000 100000 255\n" + bytes(1000),
        "a PPM of a number without end": b"P6 " + b"9" * 100_000,
    }


def no_images() -> dict[str, bytes]:
    """What is called an image and is none that is read here."""
    whole = {kind: encoded(PIXELS, kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")}
    cut = {
        f"a {kind} cut after {share:.0%}": content[: int(len(content) * share)]
        for kind, content in whole.items()
        for share in (0.02, 0.1, 0.5, 0.9)
    }
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(ran) (w) file closefile\n%%EOF\n"
    return {
        **cut,
        "nothing": b"",
        "a byte": b"\xff",
        "a text": b"just text\n" * 20,
        "a page": b"<!DOCTYPE html><html>404</html>",
        "a drawing": b"<svg xmlns='http://www.w3.org/2000/svg'></svg>",
        "random bytes": np.random.RandomState(1).bytes(5000),
        "zeros": bytes(5000),
        "a zip": b"PK\3\4" + bytes(100),
        "a PDF": b"%PDF-1.4\n",
        "PostScript, which Ghostscript would run": eps,
        "a JPEG's first bytes": b"\xff\xd8\xff",
        "a PNG's first bytes": b"\x89PNG\r\n\x1a\n",
        "a PNG without pixels": png(8, 8),
        "a PNG with other pixels' check sum": whole["PNG"].replace(b"IDAT", b"IDAT\0", 1),
        "floating-point pixels of unknown range": encoded(GREY.astype(np.float32), "TIFF"),
    }


def repeated(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)


def frames(kind: str) -> bytes:
    first = Image.fromarray(repeated(np.full((40, 30), 80, np.uint8)))
    others = [Image.fromarray(np.full((40, 30, 3), value, np.uint8)) for value in (160, 240)]
    options = {"lossless": True} if kind == "WEBP" else {}
    return encoded(first, kind, save_all=True, append_images=others, duration=50, **options)


def odd_images() -> dict[str, tuple[str, bytes, np.ndarray, int]]:
    """Images that are to be read: name of the file, content, expected pixels, tolerance."""
    deep = GREY.astype(np.uint16) * 256 + 99
    exif = Image.Exif()
    exif[0x0112] = 6  # To be shown turned by a quarter.
    turned = Image.fromarray(np.full((20, 40, 3), 200, np.uint8))
    turned.paste((0, 0, 0), (0, 0, 20, 20))  # Its left half is the upper half of what is shown.
    upright = np.full((40, 20, 3), 200, np.uint8)
    upright[:20] = 0
    palette = Image.fromarray(PIXELS // 64 * 64).convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
    indexed = np.asarray(palette.convert("RGB"))
    inverted = Image.new("CMYK", (30, 40), (0, 255, 255, 0))
    red = np.broadcast_to(np.uint8([255, 0, 0]), (40, 30, 3))
    still = np.full((40, 30, 3), 80, np.uint8)
    grey_alpha = np.concatenate([GREY[..., None], ALPHA], axis=-1)
    profile = encoded(PIXELS, "PNG", icc_profile=b"no profile at all")
    return {
        "a PNG called .jpg": ("a.jpg", encoded(PIXELS, "PNG"), PIXELS, 0),
        "a JPEG called .png": ("a.png", encoded(PIXELS // 255, "JPEG"), PIXELS // 255, 8),
        "a BMP called .gif": ("a.gif", encoded(PIXELS, "BMP"), PIXELS, 0),
        "16 bits, grey": ("a.png", encoded(deep, "PNG"), repeated(GREY), 0),
        "16 bits, grey, TIFF": ("a.tif", encoded(deep, "TIFF"), repeated(GREY), 0),
        "16 bits, all bright": ("a.png", encoded(deep // 256 + 0xFE00, "PNG"), np.full_like(PIXELS, 254), 0),
        "1 bit": ("a.png", encoded(Image.fromarray(GREY > 99), "PNG"), repeated((GREY > 99) * np.uint8(255)), 0),
        "CMYK": ("a.jpg", encoded(inverted, "JPEG"), red, 3),
        "CMYK, TIFF": ("a.tiff", encoded(inverted, "TIFF"), red, 0),
        "a palette": ("a.png", encoded(palette, "PNG"), indexed, 0),
        "a palette with one clear colour": ("a.png", encoded(palette, "PNG", transparency=3), indexed, 0),
        "a palette with clear colours": ("a.png", encoded(palette, "PNG", transparency=bytes(range(64))), indexed, 0),
        "grey with alpha, dropped": ("a.png", encoded(grey_alpha, "PNG"), repeated(GREY), 0),
        "alpha, dropped": ("a.png", encoded(np.concatenate([PIXELS, ALPHA], axis=-1), "PNG"), PIXELS, 0),
        "a clear colour": ("a.png", encoded(PIXELS, "PNG", transparency=(1, 2, 3)), PIXELS, 0),
        "alpha, WebP": ("a.webp", encoded(np.dstack([still, ALPHA]), "WEBP", lossless=True), still, 0),
        "an animated GIF, its first picture": ("a.gif", frames("GIF"), still, 2),
        "an animated WebP, its first picture": ("a.webp", frames("WEBP"), still, 2),
        "an animated PNG, its first picture": ("a.png", frames("PNG"), still, 0),
        "pages of a TIFF, the first": ("a.tif", frames("TIFF"), still, 0),
        "turned by its EXIF entry": ("a.jpg", encoded(turned, "JPEG", exif=exif, quality=95), upright, 30),
        "turned by its EXIF entry, PNG": ("a.png", encoded(turned, "PNG", exif=exif), upright, 0),
        "a damaged EXIF entry": ("a.png", encoded(PIXELS, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), PIXELS, 0),
        "a damaged colour profile": ("a.png", profile, PIXELS, 0),
        "bytes after its end": ("a.png", encoded(PIXELS, "PNG") + b"more" * 1000, PIXELS, 0),
    }


def test_odd_images_are_read_as_they_look(faults, tmp_path):
    with faults("odd images", "read as they look") as inject:
        for what, (name, content, expected, tolerance) in odd_images().items():
            (tmp_path / name).write_bytes(content)
            with inject.fault(what):
                image = load_image(tmp_path / name)
                assert image.dtype == np.uint8 and image.shape == expected.shape
                assert np.abs(image.astype(int) - expected).max() <= tolerance


def test_what_is_no_image_is_named(faults, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with faults("files that are no images", "named") as inject:
        for what, content in no_images().items():
            for suffix in (".jpg", ".png"):
                path = tmp_path / f"image{suffix}"
                path.write_bytes(content)
                with inject.fault(f"{what} as {suffix}"):
                    message = refusal(load_image, path)
                    assert message.startswith(f"{path}: ") and len(message) < len(str(path)) + 300
                    assert message.isprintable() and not (tmp_path / "ran").exists()


def test_decompression_bombs_are_named_without_taking_memory(faults, tmp_path):
    """In a process of its own, whose memory is limited and whose peak is measured."""
    files = {}
    for i, (what, content) in enumerate(bombs().items()):
        files[what] = tmp_path / f"{i}.png"
        files[what].write_bytes(content)
    for i, (name, content, *_) in enumerate(odd_images().values()):  # Of which nothing may be printed, either.
        (tmp_path / f"odd{i}{name}").write_bytes(content)
    program = (
        "import json, re, resource, sys\n"
        "from pathlib import Path\n"
        "from src.dataset.source import load_image\n"
        "from src.cli.errors import UserError\n"
        f"limit = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + {4 * MEMORY}\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "memory = lambda key: int(re.search(key + r':\\s*(\\d+)', open('/proc/self/status').read())[1]) << 10\n"
        "for name in sys.argv[1:]:\n"
        "    open('/proc/self/clear_refs', 'w').write('5')\n"  # Forgets the peak so far.
        "    before = memory('VmRSS')\n"
        "    try:\n"
        "        outcome = f'read {load_image(Path(name)).shape}'\n"
        "    except UserError as error:\n"
        "        outcome = str(error)\n"
        "    print(json.dumps([outcome, memory('VmHWM') - before]))\n"
    )
    command = [sys.executable, "-c", program, *map(str, [*files.values(), *sorted(tmp_path.glob("odd*"))])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with faults("decompression bombs", "named") as inject:
        most = 0
        for (what, path), line in zip(files.items(), done.stdout.splitlines()):
            message, memory = json.loads(line)
            with inject.fault(what):
                assert message.startswith(f"{path}: ") and "MemoryError" not in message
                assert memory < MEMORY, f"took {memory >> 20} MiB"
            most = max(most, memory)
        inject.notes.append(f"with {most >> 20} MiB at most")
        with inject.fault("nothing is printed besides"):
            assert done.stderr == ""


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder with two images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("first.png", "last.png"):
        Image.fromarray(PIXELS).save(folder / name)
    return folder


@pytest.fixture
def infer(program, models, tmp_path, monkeypatch, no_pictures):
    """A function that runs infer.py on paths, with the ONNX model; `written` is what predictions.json names then."""
    monkeypatch.chdir(tmp_path)

    def classified(*paths) -> SimpleNamespace:
        output = tmp_path / "out" / "predictions.json"
        output.unlink(missing_ok=True)
        done = program("infer", "--images", *paths, "--model_path", models.onnx, "--output_path", "out", "--top_k", 1)
        done.written = [entry["file"] for entry in json.loads(output.read_bytes())] if output.exists() else None
        return done

    return classified


def test_a_file_that_is_no_image_does_not_hold_up_the_others(faults, infer, images):
    kinds = {**no_images(), **bombs()}
    with faults("bad images among others", "named, the rest classified, exit code 1") as inject:
        for what, content in kinds.items():
            bad = images / "in between.png"
            bad.write_bytes(content)
            with inject.fault(what):
                done = infer(images)
                assert done.returncode == 1
                (warning,) = done.stderr.splitlines()
                assert warning.startswith(f"warning: skipped: {bad}: ")
                assert done.written == [str(images / "first.png"), str(images / "last.png")]
        with inject.fault("all of them at once"):
            for i, content in enumerate(kinds.values()):
                (images / f"in between {i}.jpg").write_bytes(content)
            done = infer(images)
            assert done.returncode == 1 and len(done.written) == 2
            lines = done.stderr.splitlines()
            assert len(lines) == len(kinds) + 1 and all(line.startswith("warning: skipped: ") for line in lines)


def test_a_bad_file_alone_is_the_error(faults, infer, tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "dangling.png").symlink_to("nowhere.png")
    paths = [tmp_path / name for name in ("missing.png", "folder", "pipe.png", "loop.png", "dangling.png")]
    paths += [Path("/dev/zero"), Path("/dev/null"), tmp_path / ("x" * 300), tmp_path / "missing" / "\udcff\n.png"]
    with faults("bad files alone", "the error, exit code 2") as inject:
        for what, content in {**no_images(), **bombs()}.items():
            (tmp_path / "bad.png").write_bytes(content)
            with inject.fault(what):
                done = infer(tmp_path / "bad.png")
                assert str(tmp_path / "bad.png") in one_line_error(done) and done.written is None
        for path in paths:
            with inject.fault(printable(path)):
                done = infer(path)
                assert printable(path) in one_line_error(done) and done.written is None
        with inject.fault("all of them"):
            done = infer(*paths)
            *warnings, last = done.stderr.splitlines()
            assert done.returncode == 2 and len(warnings) == len(paths) and last.startswith("error: none of the ")


def test_what_is_no_file_does_not_hold_up_the_others(faults, infer, images, tmp_path):
    (images / "folder.png").mkdir()
    os.mkfifo(images / "pipe.png")
    (images / "loop.png").symlink_to("loop.png")
    (images / "endless.png").symlink_to("/dev/zero")
    (images / "round").symlink_to(images, target_is_directory=True)
    with faults("paths that are no files", "left out") as inject:
        with inject.fault("in a folder: a folder, a pipe, loops, a device"):
            done = infer(images)
            assert done.returncode == 0 and len(done.written) == 2
        for path in ("missing.png", "/dev/zero", images / "pipe.png", images / "loop.png", images / "folder.png"):
            with inject.fault(f"{path} by name"):
                done = infer(images / "last.png", path)
                assert done.returncode == 1 and done.written == [str(images / "last.png")]
                assert done.stderr.startswith(f"warning: skipped: {path}: ") and len(done.stderr.splitlines()) == 1


def test_images_of_odd_names_are_classified(faults, infer, tmp_path):
    folder = tmp_path / "odd names"
    folder.mkdir()
    with faults("odd names of images", "classified") as inject:
        for what, name in ODD_NAMES.items():
            path = os.path.join(os.fsencode(folder), name)
            with open(path, "wb") as stream:
                stream.write(encoded(PIXELS, "PNG"))
            with inject.fault(f"{what}, in a folder"):
                done = infer(folder)
                assert (done.returncode, done.stderr) == (0, "")
                assert [os.fsencode(file) for file in done.written] == [path]
                assert len(done.stdout.splitlines()) == 2 and done.stdout.replace("\n", "").isprintable()
            with inject.fault(f"{what}, as a flag's value"):
                done = infer(os.fsdecode(path))
                assert (done.returncode, done.stderr) == (0, "")
                assert [os.fsencode(file) for file in done.written] == [path]
            with inject.fault(f"{what}, and no image"):
                with open(path, "wb") as stream:
                    stream.write(b"no image")
                assert one_line_error(infer(folder)).isprintable()
            os.unlink(path)


def test_programs_print_odd_names_whatever_the_terminal_knows(faults, script, models, tmp_path):
    for name in ODD_NAMES.values():
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as stream:
            stream.write(encoded(PIXELS, "PNG"))
    (tmp_path / "bad \udcff\n.jpg").write_bytes(b"no image")
    flags = ("--images", tmp_path, "--model_path", models.onnx, "--output_path", tmp_path / "out", "--top_k", 1)
    with faults("terminals and odd names", "one line for each file") as inject:
        for encoding in ("utf-8", "ascii"):
            with inject.fault(encoding):
                done = script("infer.py", *flags, cwd=tmp_path, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
                assert done.returncode == 1, done.stderr
                assert len(done.stdout.splitlines()) == len(ODD_NAMES) + 1
                assert len(done.stderr.splitlines()) == 1 and "bad " in done.stderr
                assert len(json.loads((tmp_path / "out" / "predictions.json").read_bytes())) == len(ODD_NAMES)
                shutil.rmtree(tmp_path / "out")


def test_data_sets_open_whatever_names_there_are(faults, tmp_path):
    for name in ODD_NAMES.values():
        for split in ("train", "val"):
            folder = os.path.join(os.fsencode(tmp_path), b"folders", split.encode(), name[:-4])
            os.makedirs(folder)
            with open(os.path.join(folder, name), "wb") as stream:
                stream.write(encoded(PIXELS, "PNG"))
    with faults("odd names in data sets", "read") as inject:
        source = open_image_folder(tmp_path / "folders", "train")
        for what, name in ODD_NAMES.items():
            with inject.fault(f"{what}, image_folder"):
                label = [os.fsencode(entry) for entry in source.classes].index(name[:-4])
                (index,) = np.flatnonzero(source.labels == label)
                assert os.fsencode(source.name(index)) == name
                assert np.array_equal(source.image(index), PIXELS)
        with inject.fault("image_folder, validation"):
            assert len(open_image_folder(tmp_path / "folders", "val")) == len(ODD_NAMES)


def test_a_broken_image_in_a_data_set_is_named_and_the_others_are_read(faults, tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "val").mkdir()
    kinds = {**no_images(), **bombs()}
    for i in range(3):
        Image.fromarray(PIXELS).save(tmp_path / "train" / "a" / f"{i}.png")
        Image.fromarray(PIXELS).save(tmp_path / "val" / f"{i}.png")
    (tmp_path / "val.csv").write_text("image,label\n0.png,a\n1.png,a\n2.png,a\n")
    with faults("broken images in data sets", "named") as inject:
        for what, content in kinds.items():
            for split, file in (("train", tmp_path / "train" / "a" / "1.png"), ("val", tmp_path / "val" / "1.png")):
                file.write_bytes(content)
                with inject.fault(f"{what}, in {split}"):
                    source = open_image_csv(tmp_path, split, ("image", "label"))
                    assert refusal(source.image, 1).startswith(f"{file}: ")
                    assert np.array_equal(source.image(0), PIXELS) and np.array_equal(source.image(2), PIXELS)


def test_tables_from_strangers_are_read_or_refused_with_their_line(faults, tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "val").mkdir()
    Image.fromarray(PIXELS).save(tmp_path / "train" / "a" / "0.png")
    table = tmp_path / "val.csv"
    tables = {
        "nothing": b"",
        "zeros": bytes(1000),
        "random bytes": np.random.RandomState(0).bytes(1000),
        "a NUL in a name": b"image,label\na\0b.png,a\n",
        "a class of 5,000 digits": b"image,label\n0.png," + b"9" * 5000 + b"\n",
        "a field of 200,000 bytes": b"image,label\n" + b"x" * 200_000 + b",a\n",
        "an open quote": b'image,label\n"0.png,a\n' + b"0.png,a\n" * 50_000,
        "a name of a folder": b"image,label\n.,a\n",
        "a name of a device": b"image,label\n/dev/zero,a\n",
        "a name of 5,000 bytes": b"image,label\n" + b"x/" * 2500 + b",a\n",
        "an escape sequence": b"image,label\n\x1b[2J.png,a\n",
        "10,000 columns": b",".join(b"c%d" % i for i in range(10_000)) + b"\n0.png,a\n",
        "bytes that are not UTF-8": b"image,label\n\xff.png,a\n",
    }
    (tmp_path / "val" / "0.png").write_bytes(encoded(PIXELS, "PNG"))
    with faults("tables of labels", "refused") as inject:
        for what, content in tables.items():
            table.write_bytes(content)
            with inject.fault(what):
                message = refusal(open_image_csv, tmp_path, "val", ("image", "label"))
                assert message.startswith(str(table)) and message.isprintable() and len(message) < 12_000
        table.unlink()
        table.mkdir()
        with inject.fault("a folder"):
            assert str(table) in refusal(open_image_csv, tmp_path, "val", ("image", "label"))
        table.rmdir()
        table.symlink_to("/dev/zero")
        with inject.fault("a device"):
            assert str(table) in refusal(open_image_csv, tmp_path, "val", ("image", "label"))
        table.unlink()
        os.mkfifo(table)
        with inject.fault("a pipe"):
            assert str(table) in refusal(open_image_csv, tmp_path, "val", ("image", "label"))
