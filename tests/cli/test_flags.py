"""The parser of flags and YAML, with keys of its own: what each form means, and that each mistake is one line."""

from __future__ import annotations

import dataclasses
from typing import Literal, Optional, Union

import pytest

from src.cli.errors import UserError
from src.cli.flags import Dialect, Parser, limited
from src.cli.help_text import describe, meanings_of

Level = limited(int, "a whole number from 1 to 9", ge=1, le=9)
Spice = Literal["pepper", "hot_sauce", "SALT"]


@dataclasses.dataclass(frozen=True)
class Kitchen:
    """Kitchen: the place."""

    name: str = "home"
    """name over the door"""


@dataclasses.dataclass(frozen=True)
class Dish(Kitchen):
    """Dish: 100% of it."""

    spices: Union[Literal["none"], Spice, list[Spice]] = "none"
    """spices, one or
    several"""
    heat: Level = 5
    """heat"""
    levels: list[Level] = dataclasses.field(default_factory=list)
    """levels in a row"""
    weight: Optional[float] = None
    """weight in kg"""
    vegan: bool = False
    """without meat"""
    sour: Optional[bool] = None
    """sour"""
    note: Optional[str] = None
    """note for the cook"""


@dataclasses.dataclass(frozen=True)
class Order:
    """Order."""

    guests: list[str]
    """names of the guests"""
    table: int = 1
    """table"""


DIALECT = Dialect(
    synonyms={"temperature": ["heat"], "table_number": ["table"], "waiter": ["the bell at the door"]},
    renamed={"flavour": ["spices"], "remark": ["note", "comment"], "foreign": ["elsewhere"]},
    retired={"smoking": False, "ashtray": None},
)
POSITIONAL = {".menu": "config", ".txt": "note", "": "guests"}


def parsed(*argv: str, positional: dict = POSITIONAL) -> dict:
    """The values of all keys."""
    dish, order = Parser("a test", [Dish, Order], DIALECT, positional).parse(argv)
    return {**dataclasses.asdict(dish), **dataclasses.asdict(order)}


def mistake(*argv: str, positional: dict = POSITIONAL) -> str:
    with pytest.raises(UserError) as error:
        parsed(*argv, positional=positional)
    return str(error.value)


def test_keys_have_their_defaults_and_lists_of_their_own():
    first, second = parsed("ann"), parsed("ann")
    assert first == second and first["levels"] is not second["levels"]
    assert (first["name"], first["heat"], first["weight"], first["guests"]) == ("home", 5, None, ["ann"])


@pytest.mark.parametrize(
    "argv, key, value",
    [
        (["--heat", "7"], "heat", 7),
        (["--heat=7", "--heat", "8"], "heat", 8),
        (["--vegan", "--table", "3"], "vegan", True),
        (["--vegan=false"], "vegan", False),
        (["--sour"], "sour", True),
        (["--sour", "~"], "sour", None),
        (["--weight", "1e-3"], "weight", 0.001),
        (["--weight", "2"], "weight", 2.0),
        (["--weight", "null"], "weight", None),
        (["--note", "null"], "note", None),
        (["--note", "3"], "note", "3"),
        (["--note", "{a: b}"], "note", "{a: b}"),
        (["--name", "null"], "name", "null"),
        (["--spices", "Salt"], "spices", "SALT"),
        (["--spices", "hot-sauce", "pepper"], "spices", ["hot_sauce", "pepper"]),
        (["--spices", "hot sauce,pepper"], "spices", ["hot_sauce", "pepper"]),
        (["--spices", "[pepper]"], "spices", ["pepper"]),
        (["--spices", "[pepper,", "salt]"], "spices", ["pepper", "SALT"]),
        (["--levels", "1", "2"], "levels", [1, 2]),
        (["--levels", "1,2"], "levels", [1, 2]),
        (["--levels", "[1, 2]"], "levels", [1, 2]),
        (["--levels", "3"], "levels", [3]),
        (["--levels", "[]"], "levels", []),
        (["--guests", "bo,b", "[c"], "guests", ["bo,b", "[c"]),
        (["--guests", "[ann,", "1e5]"], "guests", ["ann", "1e5"]),
    ],
)
def test_flags_mean_what_they_say(argv, key, value):
    read = parsed(*argv, *([] if "--guests" in argv else ["--guests", "ann"]))[key]
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--heat", "10"], "heat: '10' is not allowed; it takes a whole number from 1 to 9"),
        (["--heat", "true"], "heat: 'true' is not allowed; it takes a whole number from 1 to 9"),
        (["--heat", "5.0"], "heat: '5.0' is not allowed; it takes a whole number from 1 to 9"),
        (["--heat", "'5'"], "heat: \"'5'\" is not allowed; it takes a whole number from 1 to 9"),
        (["--heat", "9" * 5000], f"heat: '{'9' * 199}..."),
        (["--levels", "1", "x"], "levels: ['1', 'x'] is not allowed; it takes a list of: a whole number from 1 to 9"),
        (["--levels", "[1,", "[2]]"], "levels: ['[1,', '[2]]'] is not allowed"),
        (["--levels", "[1, &a [*a]]"], "levels: '[1, &a [*a]]' is not allowed"),
        (["--guests", "[x", "y: z]"], "guests: ['[x', 'y: z]'] is not allowed; it takes a list of: a text"),
        (["--spices", "sugar"], "spices: 'sugar' is not allowed; it takes one of none, or one of pepper, hot_sauce"),
        (["--spices", "\udcff"], "spices: '\\udcff' is not allowed"),
        (["--weight"], "weight: a value is missing (--weight ...); it takes a number, or null"),
        (["--temperature", "3"], "unknown key 'temperature'; did you mean 'heat'?"),
        (["--Waiter", "3"], "unknown key 'Waiter'; did you mean the bell at the door?"),
        (["--foreign", "3"], "unknown key 'foreign'"),
        (["--elsewhere", "3"], "unknown key 'elsewhere'"),
        (["--wieght", "3"], "unknown key 'wieght'; did you mean 'weight'?"),
        (["-heat", "3"], "unexpected argument '-heat'; did you mean '--heat'?"),
        (["--heat", "3", "-x"], "unexpected argument '-x'"),
        (["--"], "unexpected argument '--'"),
        (["--=3"], "unexpected argument '--'"),
        (["--config"], "config: a value is missing (--config FILE)"),
        (["--smoking"], "smoking: is not supported any more; leave it out"),
        (["--table", "1"], "guests: a value is missing (--guests ...); it takes a list of: a text"),
    ],
)
def test_a_mistake_is_one_line_with_key_value_and_what_is_allowed(argv, message):
    assert mistake(*argv, *(["--guests=ann"] if "guests" not in message else [])).startswith(message)


def test_words_without_a_flag_are_what_their_suffix_says(tmp_path):
    menu = tmp_path / "today.MENU"
    menu.write_text("heat: 3\n")
    read = parsed(str(menu), "ann", "--table", "2", "bob", "hello.txt")
    assert (read["heat"], read["guests"], read["table"], read["note"]) == (3, ["ann", "bob"], 2, "hello.txt")
    assert parsed("--guests", "ann", "--table", "2", "bob")["guests"] == ["ann", "bob"]
    assert mistake("--guests", "ann", "--note", "a.txt", "b.txt") == "unexpected argument 'b.txt'"
    assert mistake("ann", positional={}) == "unexpected argument 'ann'"


def test_a_folder_that_contains_a_positional_file_stands_for_it(tmp_path):
    (tmp_path / "dinner").mkdir()
    (tmp_path / "dinner" / "last.txt").touch()
    (tmp_path / "guests").mkdir()
    positional = {"/first.txt": "note", "/last.txt": "note", "": "guests"}
    read = parsed(f"{tmp_path}/dinner/", f"{tmp_path}/guests", positional=positional)
    assert (read["note"], read["guests"]) == (f"{tmp_path}/dinner/last.txt", [f"{tmp_path}/guests"])


def test_a_word_after_a_switch_is_its_value_or_a_positional_argument():
    for word in ("ann", "hello.txt"):
        read = parsed("--vegan", word, "bob")
        assert read["vegan"] is True and word in (*read["guests"], read["note"])
    assert parsed("ann", "--vegan", "false")["vegan"] is False
    assert mistake("ann", "--vegan=bob") == "vegan: 'bob' is not allowed; it takes true or false"
    assert mistake("--guests=ann", "--vegan", "tru", positional={".txt": "note"}).startswith("vegan: 'tru'")


def test_a_mistake_names_the_file_only_where_it_stands_there(tmp_path):
    menu = tmp_path / "a.yaml"
    menu.write_text("heat: 33\nguests: [ann]\nweight: '3'\n")
    assert mistake("--config", str(menu)).startswith(f"{menu}: heat: '33' is not allowed")
    assert mistake("--config", str(menu), "--heat", "44").startswith("heat: '44' is not allowed")
    assert mistake("--config", str(menu), "--heat", "4").startswith(f"{menu}: weight: \"'3'\" is not allowed")
    assert parsed("--config", str(menu), "--heat", "4", "--weight", "3")["weight"] == 3


@pytest.mark.parametrize(
    "text, message",
    [
        ("smoking: !!int no", "{}: not valid YAML: "),
        ("smoking: !!set [1]", "{}, line 1: not valid YAML: "),
        ("heat: !!python/name:os.system x", "{}, line 1: not valid YAML: "),
        ("config: a.yaml", "{}: unknown key 'config'; --help lists all"),
        ("batch-size: 1", "{}: unknown key 'batch-size'"),
    ],
)
def test_a_value_that_cannot_be_read_names_the_file(tmp_path, text, message):
    menu = tmp_path / "a.yaml"
    menu.write_text(text)
    assert mistake("--config", str(menu)).startswith(message.format(menu))


def test_values_that_a_file_repeats_or_spreads_over_lines_are_shown_on_one(tmp_path):
    menu = tmp_path / "a.yaml"
    menu.write_text("guests: &g [ann]\nname: 010\nspices:\n- pepper\n- 3\n")
    assert mistake("--config", str(menu)).startswith(f"{menu}: spices: '- pepper - 3' is not allowed")
    menu.write_text("guests: [&n 010, *n]\nname: *n\nheat: *n\n")
    assert mistake("--config", str(menu)).startswith(f"{menu}: heat: '010' is not allowed")
    read = parsed("--config", str(menu), "--heat", "1")
    assert (read["guests"], read["name"]) == (["010", "010"], "010")


def test_old_keys_give_their_values_to_those_of_today(capsys):
    assert parsed("ann", "--flavour", "pepper", "--remark", "hm")["spices"] == "pepper"
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["warning: flavour is now called spices", "warning: remark is now called note"]
    assert parsed("ann", "--smoking", "false", "--ashtray", "null") == parsed("ann")


def test_a_recipe_is_found_by_its_name_unless_there_is_such_a_file(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "soup.yaml").write_text("heat: 2\n")
    monkeypatch.chdir(tmp_path)
    parser = Parser("a test", [Dish], Dialect(recipes=tmp_path / "recipes"))
    assert parser.parse(["--config", "soup"])[0].heat == 2
    (tmp_path / "soup").write_text("heat: 3\n")
    assert parser.parse(["--config", "soup"])[0].heat == 3
    for name, ends in (("stew", "; recipes/ has soup"), ("./stew", r"\(No such file or directory\)")):
        with pytest.raises(UserError, match=f"{ends}$"):
            parser.parse(["--config", name])


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_groups_the_keys_with_meaning_values_and_default(flag, capsys):
    with pytest.raises(SystemExit) as end:
        parsed("--heat", "3", flag)
    shown = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0 and shown.startswith("usage: ")
    assert shown.index("Dish: 100% of it.") < shown.index("--heat") < shown.index("Order") < shown.index("--guests")
    assert "--heat heat (a whole number from 1 to 9; default: 5)" in shown
    assert "names of the guests (a list of: a text; required)" in shown


def test_fields_are_documented_below_them_and_in_their_bases():
    meanings = meanings_of(Dish)
    assert (meanings["name"], meanings["spices"]) == ("name over the door", "spices, one or several")
    assert describe(Optional[list[Spice]]) == "a list of: one of pepper, hot_sauce, SALT, or null"
