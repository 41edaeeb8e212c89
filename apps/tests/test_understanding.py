import io
import json
import shutil
from pathlib import Path

import pytest

from unipic2_apps.cli import main


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch, picture):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for index, name in enumerate("abc"):
        picture(index).save(tmp_path / "in" / f"{name}.png")


def refusal(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        main(list(map(str, words)))
    captured = capsys.readouterr()
    assert (caught.value.code, captured.out) == (2, "")
    return captured.err


def chat(monkeypatch, capsys, folder, *turns):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(turns)))
    main(["chat", "--checkpoint", str(folder), "--steps", "1", "--size", "16", "--max-new-tokens", "3"])
    return capsys.readouterr().out.splitlines()


def test_an_answer(metaquery_folder, metaquery, picture, capsys):
    words = ["in/a.png", "what colour is the circle", "--checkpoint", str(metaquery_folder), "--max-new-tokens", "4"]
    main(["ask", *words])
    assert capsys.readouterr().out == metaquery.ask(picture(0), words[1], max_new_tokens=4) + "\n"


def test_answers_for_a_folder_and_going_on(metaquery_folder, metaquery, picture, capsys, tmp_path):
    words = ["ask", "in", "what", "is it red", "--checkpoint", str(metaquery_folder), "--max-new-tokens", "3"]
    words += ["--batch-size", "2", "--out", "answers.jsonl"]
    main(words)
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    asked = [(tmp_path / "in" / f"{name}.png", text) for name in "abc" for text in ("what", "is it red")]
    assert [(row["image"], row["question"]) for row in rows] == [(str(path), text) for path, text in asked]
    assert rows[3]["answer"] == metaquery.ask(picture(1), "is it red", max_new_tokens=3)
    assert capsys.readouterr().out.splitlines()[0] == f"a.png: {rows[0]['answer']}  [what]"
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:5]))
    main(words)
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()] == rows


def test_a_kontext_checkpoint_says_what_ask_and_chat_need(kontext_folder, capsys):
    for words in (["ask", "in/a.png", "what"], ["chat"]):
        message = refusal(capsys, *words, "--checkpoint", kontext_folder)
        assert "can't ask: it is a Kontext checkpoint" in message
        assert "needs a MetaQuery checkpoint" in message
        assert message.count("\n") == 1


def test_bad_input_is_one_line(metaquery_folder, capsys, tmp_path):
    given = ["--checkpoint", metaquery_folder]
    assert "ask something about in/a.png" in refusal(capsys, "ask", "in/a.png", *given)
    assert "there is no image no.png" in refusal(capsys, "ask", "no.png", "what", *given)
    assert "ends in .jsonl" in refusal(capsys, "ask", "in/a.png", "what", "--out", "a.txt", *given)
    assert "top_p" in refusal(capsys, "ask", "in/a.png", "what", "--top-p", "2", *given)
    assert "a turn makes one picture" in refusal(capsys, "chat", "-n", "2", *given)
    (tmp_path / "a.jsonl").write_text("no answers")
    assert "holds no answers" in refusal(capsys, "ask", "in", "what", "--out", "a.jsonl", *given)


def test_a_conversation(monkeypatch, capsys, metaquery_folder, metaquery, tmp_path):
    shown = chat(
        monkeypatch,
        capsys,
        metaquery_folder,
        "/edit make it blue",
        "/draw a red circle",
        "/seed 3",
        "/edit make it blue",
        "what is it",
        "/undo",
        "/undo",
        "/paint it",
        "/seed x",
        "/draw",
        "/open no.png",
        "/open in/a.png",
        "",
        "/quit",
        "/draw nothing any more",
    )
    first, second = (tmp_path / line for line in (shown[1], shown[2]))
    assert shown[0] == "error: there is no picture yet: /draw or /open one."
    assert first.name.startswith("a-red-circle_0_")
    assert second.name.startswith(f"{first.stem}_make-it-blue_3_")
    from PIL import Image

    assert shown[3] == metaquery.ask(Image.open(second), "what is it", max_new_tokens=3)
    assert tmp_path / shown[4] == first
    assert [line[:24] for line in shown[5:]] == [
        "error: there is no picture before."[:24],
        "error: unknown /paint; known"[:24],
        "error: /seed x: expected"[:24],
        "error: the prompt is empty"[:24],
        "error: there is no image no.png."[:24],
    ]
    facts = json.loads(second.with_suffix(".json").read_text())
    assert facts["picture"]["image"] == str(first)


def test_info(metaquery_folder, metaquery, kontext_folder, capsys, tmp_path, monkeypatch):
    main(["info", str(metaquery_folder)])
    shown = capsys.readouterr().out
    assert "kind         metaquery\n" in shown
    assert "can          ask, edit, generate\n" in shown
    assert metaquery.info()["hash"] in shown
    (tmp_path / "tiny").mkdir()
    home = Path(shutil.copytree(kontext_folder, tmp_path / "tiny" / "kontext"))
    (home / "unipic2.json").write_text('{"run": "pretrain-1"}')
    monkeypatch.setenv("UNIPIC2_HOME", str(tmp_path))
    main(["info"])
    assert "run             pretrain-1\n" in capsys.readouterr().out
    main(["info", "--json", "--checkpoint", str(kontext_folder)])
    facts = json.loads(capsys.readouterr().out)
    assert facts["variant"] == "kontext"
    assert facts["parts"]["transformer"]["parameters"] > 0
    assert "are two checkpoints" in refusal(capsys, "info", kontext_folder, "--checkpoint", metaquery_folder)
