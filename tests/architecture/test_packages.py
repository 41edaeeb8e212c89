"""What every package's pyproject, the tools and the changelog must agree on."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
FOLDERS = {
    path.parent.name: path.parent
    for path in sorted([*ROOT.glob("packages/*/pyproject.toml"), *ROOT.glob("apps/pyproject.toml")])
}
PROJECTS = {name: tomllib.loads((folder / "pyproject.toml").read_text()) for name, folder in FOLDERS.items()}
REQUIREMENTS = {
    name: [
        Requirement(need)
        for need in [
            *project["project"]["dependencies"],
            *(need for extra in project["project"].get("optional-dependencies", {}).values() for need in extra),
        ]
    ]
    for name, project in PROJECTS.items()
}
CONSTRAINTS = [
    Requirement(line)
    for line in (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
MALICIOUS = ("2.6.2", "2.6.3")


def test_one_version():
    versions = {name: project["project"]["version"] for name, project in PROJECTS.items()}
    for name in PROJECTS:
        init = (FOLDERS[name] / "src" / f"unipic2_{name}" / "__init__.py").read_text()
        versions |= {f"{name}.__version__": v for v in re.findall(r'^__version__ = "(.+)"$', init, re.MULTILINE)}
    versions["CHANGELOG.md"] = re.search(r"^## \[(\d[\w.]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert len(set(versions.values())) == 1, versions


@pytest.mark.parametrize("name", PROJECTS)
def test_siblings_are_pinned_to_the_same_version(name):
    version = PROJECTS[name]["project"]["version"]
    siblings = [need for need in REQUIREMENTS[name] if need.name.startswith("unipic2-")]
    assert all(str(need.specifier) == f"=={version}" for need in siblings)


@pytest.mark.parametrize("name", PROJECTS)
def test_metadata(name):
    project = PROJECTS[name]["project"]
    folder = FOLDERS[name]
    assert project["name"] == f"unipic2-{name}"
    assert project["license"] == "Apache-2.0"
    assert project["requires-python"] == ">=3.11"
    assert (folder / project["readme"]).is_file()
    assert (folder / "src" / f"unipic2_{name}" / "py.typed").is_file()
    assert "py.typed" in PROJECTS[name]["tool"]["setuptools"]["package-data"][f"unipic2_{name}"]


def test_malicious_releases_are_excluded():
    for need in (need for needs in [*REQUIREMENTS.values(), CONSTRAINTS] for need in needs):
        if need.name in {"lightning", "pytorch-lightning"}:
            assert not any(need.specifier.contains(release) for release in MALICIOUS), need


@pytest.mark.parametrize("name", PROJECTS)
def test_constraints_fit(name):
    pinned = {canonicalize_name(need.name): next(iter(need.specifier)).version for need in CONSTRAINTS}
    for need in REQUIREMENTS[name]:
        if not need.name.startswith("unipic2-"):
            assert need.specifier.contains(pinned[canonicalize_name(need.name)]), need


def test_constraints_are_exact():
    assert all([part.operator for part in need.specifier] == ["=="] for need in CONSTRAINTS)


def test_tools_know_every_package():
    modules = {f"unipic2_{name}" for name in PROJECTS}
    assert set(TOOLS["ruff"]["lint"]["isort"]["known-first-party"]) == modules
    assert set(TOOLS["mypy"]["packages"]) == modules
    assert set(TOOLS["importlinter"]["root_packages"]) == modules
    assert {Path(part).parent.name for part in TOOLS["mypy"]["mypy_path"].split(":")} == set(PROJECTS)
    installed = re.findall(r"^-e (?:packages/)?(\w+)", (ROOT / "requirements" / "dev.txt").read_text(), re.MULTILINE)
    assert set(installed) == set(PROJECTS)
