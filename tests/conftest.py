"""Fixtures for tests that look at the repository as a whole, or need an environment of their own."""

import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, f"{sys.argv[1]}."):
    if not module.name.endswith(".__main__"):  # a program
        importlib.import_module(module.name)
print(sys.argv[1], *(module.name for module in pkgutil.walk_packages(package.__path__, f"{sys.argv[1]}.")))
"""


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return ROOT


class FreshEnvironment:
    """An empty virtual environment; pip installs into it, and packages of this environment can be lent to it.

    Lending links a distribution and all that it requires, and nothing else, so that gigabytes such as torch need not be
    downloaded again. What is lent looks installed to pip, which therefore installs only the rest. (An environment with
    access to the outer one's packages would see all of them, declared or not.)
    """

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.python = folder / "bin" / "python"
        self.site = next(folder.glob("lib/python*/site-packages"))

    def lend(self, *names: str) -> None:
        """Link installed distributions, with what they require, into this environment."""
        for name in _closure(names):
            found = distribution(name)
            for top in {path.parts[0] for path in found.files or []} - {"..", "__pycache__"}:
                link = self.site / top
                if not link.exists():
                    link.symlink_to(Path(str(found.locate_file(top))).resolve())

    def pip_install(self, *arguments: str) -> None:
        """Install with the versions of requirements/constraints.txt.

        Nothing is compiled ahead: of thousands of files of torch and transformers few are ever imported.
        """
        constraints = str(ROOT / "requirements" / "constraints.txt")
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "--disable-pip-version-check", "install"]
        pip += ["--quiet", "--no-compile"]
        done = subprocess.run([*pip, "-c", constraints, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, *arguments: str, cwd: Path, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run Python in this environment and nothing of the outer one; returns with the output as text."""
        environment = {"PATH": f"{self.python.parent}:/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(cwd)}
        return subprocess.run(
            [str(self.python), *arguments],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def succeed(self, *arguments: str, cwd: Path) -> str:
        """Run Python, see it succeed, and return what it printed."""
        done = self.run(*arguments, cwd=cwd)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def import_all(self, package: str, source: Path) -> None:
        """Import every module of an installed package; none of the source's is missing."""
        modules = self.succeed("-c", IMPORT_ALL, package, cwd=self.site).split()
        assert len(modules) == len(list((source / package).rglob("*.py"))), modules

    def run_tests(self, package: Path, *files: str) -> None:
        """Run the quick tests in these files of a package's folder, which pass."""
        chosen = [str(Path("tests") / file) for file in files]
        options = ("-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-m", "not slow and not gpu")
        # In the package's folder, so that processes which tests start find the tests' functions.
        assert " passed" in self.succeed("-m", "pytest", *options, *chosen, cwd=package)

    def installed(self) -> set[str]:
        """Return the normalised names of all distributions that Python sees in this environment."""
        code = "import importlib.metadata as m; print(*{d.metadata['Name'] for d in m.distributions()}, sep='\\n')"
        names = self.run("-c", code, cwd=self.site).stdout.split()
        return {name.lower().replace("_", "-") for name in names}


def _closure(names: Iterable[str]) -> set[str]:
    """Return the installed distributions that are required, directly or not, without extras."""
    found: set[str] = set()
    waiting = [Requirement(name).name for name in names]
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        needs = [Requirement(need) for need in distribution(name).requires or []]
        waiting.extend(need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""}))
    return found


@pytest.fixture
def fresh_environment(tmp_path: Path) -> FreshEnvironment:
    """An empty virtual environment."""
    return FreshEnvironment(tmp_path / "environment")


@pytest.fixture
def package_copy(tmp_path: Path):
    """Copy one package and the reference data of its tests, nothing else, and return the package's folder."""

    def copy(name: str) -> Path:
        target = tmp_path / "checkout" / "packages" / name
        ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
        shutil.copytree(ROOT / "packages" / name, target, ignore=ignored)
        (tmp_path / "checkout" / "tests").mkdir()
        (tmp_path / "checkout" / "tests" / "golden").symlink_to(ROOT / "tests" / "golden")
        return target

    return copy
