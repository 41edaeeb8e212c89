"""What tracked files may hold, and whether what the documents name exists."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LISTED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
)
FILES = [path for path in (ROOT / line for line in LISTED.stdout.splitlines()) if path.is_file()]
DOCUMENTS = [path for path in FILES if path.suffix == ".md"]
MANIFESTS = [path for path in FILES if path.name == "pyproject.toml" and path.parent != ROOT]
SCRIPTS = {"Makefile", ".ci/run"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


CODE = [
    path for path in FILES if path.suffix in {".py", ".toml", ".yaml", ".yml", ".sh", ".cfg"} or name(path) in SCRIPTS
]
# Written so that no pattern matches its own text.
UNWANTED = {
    "a path of one machine": r"/[w]ork/|/[h]ome/[a-z]|/[r]oot/|/[U]sers/[a-z]|[C]:\\\\Users",
    "a package registry": r"[p]ypi\.(org|io)|[p]ythonhosted\.org|[n]pmjs\.(org|com)|[d]eb\.debian|[d]ownload\.pytorch",
    "a key": r"[A]KIA[0-9A-Z]{16}|-----[B]EGIN [A-Z ]*PRIVATE KEY",
    "a token": r"\b[h]f_[A-Za-z0-9]{30}|\b[g]h[pousr]_[A-Za-z0-9]{30}",
}


def text(path: Path) -> str | None:
    """Return the text of a file, or None if it is binary."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


@pytest.mark.parametrize("what", UNWANTED)
def test_no_file_holds(what):
    pattern = re.compile(UNWANTED[what])
    found = {name(path): match[0] for path in FILES if (match := pattern.search(text(path) or ""))}
    assert not found


def test_code_is_ascii():
    found = {name(path): line for path in CODE for line in text(path).splitlines() if not line.isascii()}
    assert not found


def test_no_large_files():
    assert {name(path): path.stat().st_size for path in FILES if path.stat().st_size > 2**20} == {}


def prose(path: Path) -> str:
    """Return a document without comments and code."""
    return re.sub(r"<!--.*?-->|```.*?```|`[^`\n]*`", "", text(path), flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Return the anchors that a Markdown viewer makes of the headings."""
    headings = re.findall(r"^#+ +(.+?)\s*$", re.sub(r"```.*?```", "", text(path), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_resolve(document):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def commands(document: Path) -> list[str]:
    """Return the lines of a document's bash blocks, without comments, and the make commands in its sentences."""
    blocks = re.findall(r"```bash\n(.*?)```", text(document), flags=re.DOTALL)
    lines = re.sub(r"\\\n\s*", " ", "".join(blocks)).splitlines()
    shown = [line.split(" #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]
    return shown + re.findall(r"`(make [a-z-]+)`", text(document))


def console_scripts() -> set[str]:
    projects = [tomllib.loads(path.read_text())["project"] for path in MANIFESTS]
    return {script for project in projects for script in project.get("scripts", {})}


def exists(command: str) -> bool:
    """Tell whether the program, make target, module or script that a command line starts with exists."""
    first, *rest = command.split()
    if first == "make":
        targets = re.findall(r"^([a-z-]+):", text(ROOT / "Makefile"), re.MULTILINE)
        return all(word in targets for word in rest if "=" not in word)
    if first == "python" and rest[0] == "-m":
        module = ROOT / "packages" / rest[1].split(".")[0].removeprefix("unipic2_") / "src" / Path(*rest[1].split("."))
        return module.with_suffix(".py").is_file() or (module / "__main__.py").is_file()
    if first in {"bash", "python"}:
        return (ROOT / rest[0]).is_file()
    return first in {"git", "cd", "pip", "source"} | console_scripts()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_commands_exist(document):
    assert [command for command in commands(document) if not exists(command)] == []


def test_readme_shows_the_commands():
    shown = commands(ROOT / "README.md")
    assert "make demo" in shown
    assert "make test" in shown
