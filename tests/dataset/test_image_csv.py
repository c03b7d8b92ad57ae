import numpy as np
import pytest

from src.dataset.image_csv import open_image_csv
from tests.made_data import refusal, write_image_csv

COLUMNS = ("image", "label")


def image_of(value):
    return np.full((4, 4, 3), value, np.uint8)


@pytest.fixture
def made(tmp_path):
    """Classes ant, bee and cow in train/; four images in val/ that the table names out of order of class."""
    train = {"cow": [image_of(3)], "ant": [image_of(1), image_of(11)], "bee": [image_of(2)]}
    val = [(image_of(20), "bee"), (image_of(30), "cow"), (image_of(10), "ant"), (image_of(31), "cow")]
    write_image_csv(tmp_path, train, val)
    return tmp_path


def content(source):
    return [(int(source.image(i)[0, 0, 0]), int(source.labels[i])) for i in range(len(source))]


def test_training_images_are_in_class_folders(made):
    source = open_image_csv(made, "train", COLUMNS)
    assert source.classes == ["ant", "bee", "cow"]
    assert content(source) == [(1, 0), (11, 0), (2, 1), (3, 2)]


def test_validation_labels_come_from_the_table_in_its_order(made):
    source = open_image_csv(made, "val", COLUMNS)
    assert source.classes == ["ant", "bee", "cow"]
    assert content(source) == [(20, 1), (30, 2), (10, 0), (31, 2)]


@pytest.mark.parametrize(
    "text",
    [
        "image,label\n0000.png,1\n0001.png,2\n",
        "image,label\r\n0000.png,bee\r\n0001.png,cow\r\n",
        "image,label\n0000.png,bee\n\n0001.png,cow",
        "label,comment,image\nbee,first,0000.png\ncow,second,0001.png\n",
        'image,label\n"0000.png","bee"\n0001.png, cow \n',
        "\ufeffimage,label\n0000.png,bee\n0001.png,cow\n",
    ],
    ids=["class as index", "CRLF", "blank line", "more columns", "quotes and spaces", "byte order mark"],
)
def test_the_table_may_be_written_in_any_usual_way(made, text):
    (made / "val.csv").write_bytes(text.encode())
    assert content(open_image_csv(made, "val", COLUMNS)) == [(20, 1), (30, 2)]


def test_the_columns_may_have_other_names(made):
    text = (made / "val.csv").read_text().replace("image,label", "file name,class")
    (made / "val.csv").write_text(text)
    assert len(open_image_csv(made, "val", ("file name", "class"))) == 4


@pytest.mark.parametrize("name", ["a cat.png", "été.png", "狗.png", "a,b.png", 'a"b.png', "new\nline.png"])
def test_any_file_name_can_be_in_the_table(made, name):
    (made / "val" / "0000.png").rename(made / "val" / name)
    quoted = '"' + name.replace('"', '""') + '"'
    (made / "val.csv").write_text(f"image,label\n{quoted},bee\n", encoding="utf-8")
    assert content(open_image_csv(made, "val", COLUMNS)) == [(20, 1)]


def test_a_class_that_is_called_by_a_number_is_its_name_first(tmp_path):
    write_image_csv(tmp_path, {"1": [image_of(1)], "5": [image_of(5)]}, [(image_of(9), "1")])
    assert content(open_image_csv(tmp_path, "val", COLUMNS)) == [(9, 0)]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("0000.png,bee\nmissing.png,ant", "line 3: there is no file {made}/val/missing.png"),
        ("0000.png,bee\n" + "x" * 300 + ".png,ant", "line 3: there is no file"),
        ("0000.png,wasp", "line 2: unknown class 'wasp'; the classes are ant, bee, cow"),
        ("0000.png,0\n0001.png,3", "line 3: unknown class '3'"),
        ("0000.png,4", "line 2: unknown class '4'"),
        ("0000.png,-1", "line 2: unknown class '-1'"),
        ("0000.png,1.0", "line 2: unknown class '1.0'"),
        ("0000.png,", "line 2: unknown class ''"),
        ("0000.png,bee\n0001.png", "line 3: a value is missing"),
        (",bee", "line 2: a value is missing"),
    ],
)
def test_a_bad_row_is_named_with_its_line(made, row, problem):
    (made / "val.csv").write_text(f"image,label\n{row}\n")
    message = refusal(open_image_csv, made, "val", COLUMNS)
    assert message.startswith(f"{made / 'val.csv'}, {problem.format(made=made)}")


@pytest.mark.parametrize("header", ["file,label", "file;label", "", "image"])
def test_columns_that_are_not_there_are_named_with_those_that_are(made, header):
    (made / "val.csv").write_text(f"{header}\n0000.png,bee\n" if header else "")
    message = refusal(open_image_csv, made, "val", COLUMNS)
    assert message.startswith(f"{made / 'val.csv'}: no column") and "--csv_columns" in message
    assert f"(found: {header.replace(',', ', ').replace(';', ', ') or 'none'})" in message


def test_a_table_without_rows_is_refused(made):
    (made / "val.csv").write_text("image,label\n")
    assert refusal(open_image_csv, made, "val", COLUMNS).startswith(f"{made / 'val.csv'}: no rows below the header")


def test_a_missing_table_is_named(made):
    (made / "val.csv").unlink()
    assert str(made / "val.csv") in refusal(open_image_csv, made, "val", COLUMNS)


@pytest.mark.parametrize("content", [b"\xff\xfei\x00m\x00", b"\xff\xfe\x00", b"\x00" * 100, bytes(range(256)) * 50])
def test_a_table_that_is_none_is_named(made, content):
    (made / "val.csv").write_bytes(content)
    assert refusal(open_image_csv, made, "val", COLUMNS).startswith(f"{made / 'val.csv'}: no")


SPREADSHEETS = {
    "semicolons": "image;label\r\n0000.png;bee\r\n0001.png;cow\r\n",
    "semicolons, and commas in a comment": "image;comment;label\n0000.png;a, b, c;bee\n0001.png;d, e;cow\n",
    "tabs": "image\tlabel\n0000.png\tbee\n0001.png\tcow\n",
    "bars": "image|label\n0000.png|bee\n0001.png|cow\n",
    "spaces after commas": 'image, label\n0000.png, "bee"\n0001.png, cow\n',
    "capitals": "Image,LABEL\n0000.png,bee\n0001.png,cow\n",
    "Excel's line": "sep=;\nimage;label\n0000.png;bee\n0001.png;cow\n",
    "line ends of an old Mac": "image,label\r0000.png,bee\r0001.png,cow\r",
    "an index": ",image,label\n0,0000.png,bee\n1,0001.png,cow\n",
    "Windows paths": "image,label\nval\\0000.png,bee\n.\\val\\0001.png,cow\n",
    "paths from the data set's folder": "image,label\nval/0000.png,bee\nval/0001.png,cow\n",
    "a column of ü": "image,label,Größe\n0000.png,bee,1\n0001.png,cow,2\n",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
@pytest.mark.parametrize("what", SPREADSHEETS)
def test_the_table_may_come_from_any_spreadsheet(made, what, encoding):
    (made / "val.csv").write_bytes(SPREADSHEETS[what].encode(encoding))
    assert content(open_image_csv(made, "val", COLUMNS)) == [(20, 1), (30, 2)]


@pytest.mark.parametrize(
    ("name", "encoding"), [("Käfer", "cp1252"), ("狗", "gb18030"), ("狗", "utf-16"), ("été", "latin-1")]
)
def test_class_names_are_read_in_the_encoding_of_the_table(tmp_path, name, encoding):
    write_image_csv(tmp_path, {"ant": [image_of(1)], name: [image_of(2)]}, [(image_of(9), name)])
    (tmp_path / "val.csv").write_bytes(f"image,label\n0000.png,{name}\n".encode(encoding))
    source = open_image_csv(tmp_path, "val", COLUMNS)
    assert [source.classes[label] for label in source.labels] == [name]


@pytest.mark.parametrize("encoding", ["gb18030", "utf-8", "utf-16"])
def test_file_names_are_read_in_the_encoding_of_the_table(made, encoding):
    (made / "val" / "0000.png").rename(made / "val" / "企鹅.png")
    (made / "val.csv").write_bytes("image,label\n企鹅.png,bee\n".encode(encoding))
    assert content(open_image_csv(made, "val", COLUMNS)) == [(20, 1)]


@pytest.mark.parametrize(
    ("labels", "expected", "said"),
    [
        ("012", [0, 1, 2], None),
        ("123", [0, 1, 2], "from 1, so that 1 is ant"),
        ("33", [2, 2], "from 1, so that 3 is cow"),
        ("12", [1, 2], "from 0, so that 1 is bee"),
        (["0", "cow"], [0, 2], None),
        (["ant", "3"], [0, 2], "from 1, so that 3 is cow"),
        (["01", "03"], [0, 2], "from 1, so that 1 is ant"),
    ],
)
def test_what_numbers_count_from_is_recognised_or_said(made, capsys, labels, expected, said):
    rows = "".join(f"000{i}.png,{label}\n" for i, label in enumerate(labels))
    (made / "val.csv").write_text(f"image,label\n{rows}")
    assert open_image_csv(made, "val", COLUMNS).labels.tolist() == expected
    warnings = capsys.readouterr().err
    assert (said in warnings and warnings.count("\n") == 1) if said else warnings == ""


def test_the_folder_and_its_table_may_be_called_valid(made):
    (made / "val").rename(made / "valid")
    (made / "val.csv").rename(made / "valid.csv")
    assert len(open_image_csv(made, "val", COLUMNS)) == 4


def test_a_missing_data_folder_is_named_with_the_layout(tmp_path):
    for split in ("train", "val"):
        message = refusal(open_image_csv, tmp_path / "none", split, COLUMNS)
        assert str(tmp_path / "none" / "train") in message and "train/<class>/" in message
