"""GEdit's folder: both calls, both languages, the judge's words from the official file."""

import json

import pytest
from PIL import Image

from unipic2_evals.runs import Options
from unipic2_evals.runs.gedit import GEditRun, read_prompts

VIE = """
import somewhere_else
_context_no_delimit = "You are an artist."
_prompts_0shot_two_image_edit_rule = '''Two images.'''
_prompts_0shot_tie_rule_SC = "Rate: <instruction>"
_prompts_0shot_rule_PQ = "Rate the picture."
unused = somewhere_else.call()
"""


def _row(key, group="style_change", language="en", shared=True):
    return {
        "key": key,
        "task_type": group,
        "instruction": f"change {key}",
        "instruction_language": language,
        "Intersection_exist": shared,
    }


@pytest.fixture
def run(tmp_path):
    rows = [_row("a"), _row("b", "subject-add", shared=False), _row("a", language="cn")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "vie_prompts.py").write_text(VIE)
    model = tmp_path / "ours"
    for row in rows[:2]:
        folder = model / "fullset" / row["task_type"] / "en"
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 6)).save(folder / f"{row['key']}.png")
        Image.new("RGB", (16, 12)).save(folder / f"{row['key']}_SRCIMG.png")
    return lambda official=True: GEditRun(
        model, Options(official, tmp_path / "rows.jsonl", prompts=tmp_path / "vie_prompts.py")
    )


def _reply(*scores):
    return json.dumps({"score": scores, "reasoning": "so"})


def test_requests(run):
    first, _, third = run().items()
    consistency, quality = first.requests
    assert consistency.text == "You are an artist.\nTwo images.\nRate: change a"
    assert quality.text == "You are an artist.\nRate the picture."
    assert [picture.pixels().shape for picture in consistency.pictures] == [(12, 16, 3)] * 2
    assert third.missing == "no a_SRCIMG.png and no a.png"


def test_scores(run):
    official = run()
    first, second, _ = items = official.items()
    scored = {
        first.key: official.score(first, [_reply(9, 4), _reply(9, 9)]),
        second.key: official.score(second, [_reply(8), "[8, 8]"]),
    }
    assert scored[first.key].values["en overall"] == 6
    assert "en overall intersection" not in scored[second.key].values
    records = {key: entry.record for key, entry in scored.items()}
    assert str(official.official_values(records)["en overall"]) == "nan"  # nine groups are empty
    assert run(official=False).official_values(records)["en overall"] == 7
    names = [measure.name for measure in official.measures(items)]
    assert names[-1] == "en overall"
    assert "cn overall" in names


@pytest.mark.parametrize("reply", ["no idea", '{"reasoning": "x"}', '{"score": []}', '{"score": [-1]}'])
def test_unreadable_replies_fail(run, reply):
    item = run().items()[0]
    assert run().score(item, [reply, _reply(5, 5)]).failed


def test_prompts_need_all_texts(tmp_path):
    (tmp_path / "p.py").write_text("_context_no_delimit = 'x'")
    with pytest.raises(ValueError, match=r"texts \['_prompts_0shot_rule_PQ', .*\] are missing"):
        read_prompts(tmp_path / "p.py")
    (tmp_path / "p.py").write_text("{")
    with pytest.raises(ValueError, match=r"expected the official viescore/vie_prompts\.py"):
        read_prompts(tmp_path / "p.py")


def test_files_are_needed(tmp_path):
    with pytest.raises(ValueError, match=r"expected --data .* and --prompts"):
        GEditRun(tmp_path, Options())
