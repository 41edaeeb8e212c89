"""What the README tells people to type answers; only what is cheap is run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
HELP = [line.split(" #")[0].strip() for line in README.splitlines() if re.match(r"\S.* --help\b", line)]
BIN = Path(sys.executable).parent


def run(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    program, *arguments = command.split()
    return subprocess.run(
        [str(BIN / program), *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_readme_has_help_to_run():
    assert "lightning run --help" in HELP


@pytest.mark.parametrize("command", HELP)
def test_help_answers(command, tmp_path):
    result = run(command, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir()), "help leaves nothing behind"


def test_documented_stages_exist(tmp_path):
    table = README.split("| Stage |")[1].split("\n\n")[0]
    stages = re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)
    offered = run("lightning run --help", tmp_path).stdout
    assert stages
    assert [stage for stage in stages if not re.search(rf"\b{stage}\b", offered)] == []


def test_make_help_lists_every_target():
    result = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {line.split()[1] for line in result.stdout.splitlines()} == targets
