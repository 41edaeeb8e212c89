"""The prompt suite: what holds for any seed. The official seed is a worked case in test_geneval."""

import json
from collections import Counter

import pytest

from unipic2_evals.geneval_suite import COLORS, OBJECT_NAMES, TAGS, generate_suite, make_plural, prompt_suite


@pytest.mark.parametrize("seed", [0, 7])
def test_prompts_are_distinct_and_in_the_order_of_the_tags(seed):
    prompts = prompt_suite(seed, n=30)
    assert len({json.dumps(prompt) for prompt in prompts}) == len(prompts)
    assert list(Counter(prompt["tag"] for prompt in prompts)) == list(TAGS)


def test_other_seed_gives_other_prompts():
    assert generate_suite(1, 10)["sha256"] != generate_suite(2, 10)["sha256"]


def test_names_may_be_a_list():
    assert generate_suite(43, 100, list(OBJECT_NAMES)) == generate_suite(43, 100, "object_names.txt")


def test_people_are_never_coloured():
    clauses = [clause for prompt in prompt_suite(3, n=400) for clause in prompt["include"] if "color" in clause]
    assert clauses
    assert all(clause["class"] != "person" and clause["color"] in COLORS for clause in clauses)


def test_prompt_names_every_class_of_its_clauses():
    for prompt in prompt_suite(5, n=40, official=True):
        for clause in prompt["include"]:
            assert clause["class"] in prompt["prompt"]


def test_short_suite_has_no_line_180():
    assert generate_suite(0, 1, ["person", "car", "dog"])["line_180"] is None


@pytest.mark.parametrize(
    ("name", "official", "english"),
    [
        ("bench", "benchs", "benches"),
        ("person", "persons", "people"),
        ("computer mouse", "computer mouses", "computer mice"),
        ("knife", "knifes", "knives"),
        ("skis", "skises", "skis"),
        ("wine glass", "wine glasses", "wine glasses"),
        ("bus", "buses", "buses"),
        ("cat", "cats", "cats"),
    ],
)
def test_plurals(name, official, english):
    assert make_plural(name) == official
    assert make_plural(name, official=False) == english


def test_english_plurals_change_only_counting_prompts():
    pairs = list(zip(prompt_suite(43), prompt_suite(43, official=False), strict=True))
    assert {a["tag"] for a, b in pairs if a != b} == {"counting"}
    assert all(a["include"] == b["include"] for a, b in pairs)


@pytest.mark.parametrize("names", ["classes.txt", ["car", "dog", "cat"], ["person", "car"]])
def test_unusable_names_are_refused(names):
    with pytest.raises(ValueError, match="classnames: expected"):
        generate_suite(0, 1, names)
