"""What a study consists of, and what is refused before it begins."""

from __future__ import annotations

import pytest

from src.cli.errors import UserError
from src.study.config import base_of, parse_study, variations
from src.study.design import make_design
from tests.made_data import refusal

DIGITS = ("--dataset", "digits", "--version", "cifar", "--image_size", "16", "--output_path", "study")


def design(*argv: str):
    study, words = parse_study([*DIGITS, *argv])
    return make_design(study, base_of(words))


def names(*argv: str) -> list[str]:
    return [point.name for point in design(*argv).points]


def test_one_key_at_a_time_varies_around_the_base(here):
    found = design("--vary", "squeeze_ratio=0.5,1", "--vary=bypass=none,simple,complex", "--seeds", "3", "1")
    assert [point.name for point in found.points] == [
        *("squeeze_ratio_0.5", "squeeze_ratio_1", "base", "bypass_simple", "bypass_complex")
    ]
    models = [point.config.model for point in found.points]
    assert [(model.squeeze_ratio, model.bypass) for model in models] == [
        *((0.5, "none"), (1.0, "none"), (None, "none"), (None, "simple"), (None, "complex"))
    ]
    assert found.points[0].values == {"squeeze_ratio": "0.5", "bypass": "none"}
    assert found.points[3].values == {"squeeze_ratio": "null", "bypass": "simple"}
    assert [str(folder) for _, _, folder in found.runs()][:2] == [
        *("study/squeeze_ratio_0.5/seed_3", "study/squeeze_ratio_0.5/seed_1")
    ]


def test_a_grid_has_all_combinations(here):
    found = design("--vary", "bypass=none,simple", "batch_norm=none,all", "dropout=0.5,0", "--grid")
    assert len(found.points) == 8 and len({point.name for point in found.points}) == 8
    assert found.points[-1].name == "bypass_simple-batch_norm_all-dropout_0"
    model = found.points[-1].config.model
    assert (model.bypass, model.batch_norm, model.dropout) == ("simple", "all", 0.0)


def test_a_configuration_that_several_values_describe_is_trained_once(here):
    equal = ("squeeze_ratio=0.125,0.5", "pct_3x3=0.5,0.25", "base_e=128", "bypass=none", "lr_max=0.01,1e-2")
    flags = ("--version", "1_0", "--image_size", "64", "--vary", *equal)
    assert names(*flags) == ["base", "squeeze_ratio_0.5", "pct_3x3_0.25"]
    assert len(names(*flags, "--grid")) == 4
    point = design(*flags).points[0]
    assert list(point.values.values()) == ["0.125", "0.5", "128", "none", "0.01"]


def test_a_value_that_equals_the_base_alone_still_counts_in_combination(here):
    """The wide net has a squeeze ratio of its own; that of the paper changes it."""
    points = design(
        "--version", "1_0", "--image_size", "64", "--grid", "--vary", "squeeze_ratio=0.125", "version=1_0,cifar_wide"
    )
    assert [point.name for point in points.points] == ["base", "squeeze_ratio_0.125-version_cifar_wide"]
    assert points.points[1].config.model.squeeze_ratio == 0.125


def test_a_point_has_the_size_of_its_network(here):
    found = design("--num_classes", "10", "--vary", "bypass=none,complex").points
    assert [point.parameters for point in found] == [146_570, 146_570 + 64 * 128 + 128 + 128 * 256 + 256]
    assert found[0].bytes == 4 * 146_570 and 0 < found[0].multiply_adds < found[1].multiply_adds


def test_values_with_several_words_are_lists(here):
    found = design("--vary", "augment=none,crop_flip,crop_flip+cutout").points
    assert [point.config.data.augment for point in found] == ["none", "crop_flip", ["crop_flip", "cutout"]]
    assert [point.name for point in found] == ["base", "augment_crop_flip", "augment_crop_flip+cutout"]


def test_values_that_are_no_file_names_have_folders_of_their_own(here):
    first, second = names("--vary", "pretrained=a/b.ckpt,a:b.ckpt")
    assert first != second and "/" not in first and first.startswith("pretrained_a_b.ckpt_")


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--vary", "squeze_ratio=0.5"], "unknown key 'squeze_ratio'; did you mean 'squeeze_ratio'?"),
        (["--vary", "lr=0.5"], "did you mean 'lr_max'?"),
        (["--vary", "bypass=none,smple"], "bypass: 'smple' is not allowed; it takes one of none, simple, complex"),
        (["--vary", "bypass"], "vary: 'bypass' is not allowed; it takes KEY=VALUE,VALUE"),
        (["--vary", "bypass="], "vary: 'bypass=' is not allowed"),
        (["--vary", "seed=1,2"], "seed cannot be varied: give --seeds 1 2 3"),
        (["--vary", "output_path=a,b"], "output_path cannot be varied"),
        (["--vary", "jobs=1,2"], "unknown key 'jobs'"),
        (["--vary", "freeze=features.0"], "freeze: requires a pretrained network"),
        (["--vary", "image_size=16,1"], "image_size: 1 is too small"),
        (["--vary", "dataset=digits,cifar10"], "CIFAR-10"),
        (["--seeds", "1,a", "--vary", "bypass=none"], "seeds"),
        (["--vary", "bypass=none", "--overwrite"], "overwrite: a study replaces no runs"),
        (["--jobs", "2"], "vary: a value is missing"),
        (["--bypass", "smple", "--vary", "pct_3x3=0.5"], "bypass: 'smple' is not allowed"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(here, argv, said):
    assert said in refusal(design, *argv)
    assert list(here.iterdir()) == []


def test_the_same_key_given_twice_adds_values():
    assert variations(["a=1,2", "a=2,3"][:0]) == {}
    assert variations(["lr_max=1,2", "bypass=none", "lr-max=2,3"]) == {"lr_max": ["1", "2", "3"], "bypass": ["none"]}
    with pytest.raises(UserError):
        variations(["=1"])
