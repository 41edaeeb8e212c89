"""Rules for the container file: nothing can build it here, so what can be told from its text is."""

import inspect
import json
import re
import tomllib
from pathlib import Path

import pytest

from unipic2_apps import arguments, cli
from unipic2_apps.server import command

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "apps" / "Containerfile").read_text()
KNOWN = {"ARG", "FROM", "ENV", "WORKDIR", "RUN", "COPY", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}


def instructions():
    """Return all instructions in order, as (word, the rest of it)."""
    plain = "\n".join(line for line in TEXT.splitlines() if line.strip() and not line.startswith("#"))
    lines = re.sub(r"\\\n\s*", " ", plain).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines]


ALL = instructions()
LAST_STAGE = ALL[max(index for index, (word, _) in enumerate(ALL) if word == "FROM") :]


def last(word):
    (value,) = [rest for each, rest in LAST_STAGE if each == word]
    return value


def check_words():
    """Return the words of the health check."""
    return json.loads(last("HEALTHCHECK").split("CMD", 1)[1])


def test_only_known_instructions():
    assert {word for word, _ in ALL} == KNOWN, "ADD opens URLs and archives; COPY is enough"


def test_images_are_pinned_and_nothing_else_names_a_host():
    (python,) = re.findall(r"^ARG PYTHON=(.+)$", TEXT, re.MULTILINE)
    assert re.fullmatch(r"3\.\d+-slim-\w+", python)
    images = [rest.split()[0] for word, rest in ALL if word == "FROM"]
    assert images == ["python:${PYTHON}"] * 2
    assert not re.search(r"://|\bcurl\b|\bwget\b|\bgit\b|\bsudo\b|\blatest\b", TEXT)
    needed = tomllib.loads((ROOT / "apps" / "pyproject.toml").read_text())["project"]["requires-python"]
    assert tuple(map(int, python.split("-")[0].split("."))) >= tuple(map(int, needed.removeprefix(">=").split(".")))


def test_torch_comes_from_the_index_that_is_given():
    assert ("ARG", 'TORCH_INDEX=""') in ALL
    (torch,) = [rest for word, rest in ALL if word == "RUN" and rest.endswith(" torch")]
    assert '${TORCH_INDEX:+--index-url "${TORCH_INDEX}"}' in torch
    assert "--no-deps" in torch, "an index of torch need not have the pinned versions of the rest"


def test_what_is_installed_is_pinned_and_leaves_no_cache():
    installs = [rest for word, rest in ALL if word == "RUN" and "pip install" in rest]
    assert len(installs) == 2
    assert all("--constraint requirements/constraints.txt" in rest for rest in installs)
    assert any(word == "ENV" and "PIP_NO_CACHE_DIR=1" in rest for word, rest in ALL)
    assert not any("pip" in rest for _, rest in LAST_STAGE)


def test_all_packages_of_the_server_are_copied_and_installed():
    copied = {tuple(rest.split()) for word, rest in ALL if word == "COPY" and not rest.startswith("--from=build")}
    assert all((ROOT / source).exists() for source, _ in copied)
    needed, found = ["apps"], set()
    while needed:
        folder = needed.pop()
        found.add(folder)
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
        siblings = re.findall(r"\bunipic2-(\w+)==", " ".join(project["dependencies"]))
        needed += [f"packages/{name}" for name in siblings if f"packages/{name}" not in found]
    assert copied == {(folder, folder) for folder in found} | {("requirements/constraints.txt", "requirements/")}
    install = next(rest for word, rest in ALL if word == "RUN" and "./apps" in rest)
    assert set(re.findall(r"\./(\S+)", install)) == found


def test_it_runs_as_nobody_in_particular():
    words = [word for word, _ in LAST_STAGE]
    user = last("USER")
    assert int(user) > 0, "a number, so that orchestrators can tell that it is not root"
    assert f"useradd --uid {user} " in TEXT
    assert words.index("USER") > max(index for index, word in enumerate(words) if word in {"RUN", "COPY"})
    home = re.search(r"--home-dir (\S+)", TEXT)[1]
    assert last("WORKDIR") == home
    assert f"HF_HOME={home}/" in last("ENV"), "downloads need a folder that the user may write"


def test_the_command_is_one_that_the_program_takes(monkeypatch):
    assert json.loads(last("ENTRYPOINT")) == ["unipic2"]
    verb, *words = json.loads(last("CMD"))
    given = {}

    def serve(**values):
        given.update(values)

    serve.__signature__ = inspect.signature(command.serve)
    serve.__annotations__ = command.serve.__annotations__
    serve.__doc__ = command.serve.__doc__
    arguments.call(serve, verb, cli.COMMANDS[verb], words)
    assert given["server"].host == "0.0.0.0", "else nobody outside the container reaches it"
    assert str(given["server"].port) == last("EXPOSE")
    assert given["model"].checkpoint == "/checkpoint"


def test_the_health_check_tells_a_server_from_none(server):
    python, flag, code = check_words()
    assert (python, flag) == ("python", "-c")
    port = last("EXPOSE")
    assert code.count(port) == 1
    with pytest.raises(SystemExit) as caught:
        exec(code.replace(port, server.url.rpartition(":")[2]), {})
    assert not caught.value.code
    with pytest.raises(SystemExit) as caught:
        exec(code.replace(port, server.url.rpartition(":")[2]).replace("/health", "/nowhere"), {})
    assert caught.value.code
    with pytest.raises(ConnectionRefusedError):
        exec(code.replace(port, "1"), {})


def test_what_is_left_out_of_the_build():
    ignored = (ROOT / "apps" / "Containerfile.dockerignore").read_text().splitlines()
    assert {".git", ".venv", "**/build", "**/*.egg-info"} <= set(ignored)
