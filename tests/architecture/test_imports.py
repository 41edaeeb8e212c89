"""Who may import whom. import-linter checks the same for plain imports; here is what it can not see."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
LAYERS = [layer.split(" | ") for layer in next(c for c in CONTRACTS if c["type"] == "layers")["layers"]]
PACKAGES = [package for layer in LAYERS for package in layer]
# All but the package that trains.
UNTRAINED = [package for package in PACKAGES if package != "unipic2_train"]
FRAMEWORK = ["lightning", "lightning_fabric", "pytorch_lightning", "mlflow", "torchmetrics"]
# What a package may import of the others; leaves nothing.
MODELS = {"unipic2_dit", "unipic2_connector", "unipic2_vlm"}
SIBLINGS = {"unipic2_unified": MODELS, "unipic2_apps": {*MODELS, "unipic2_unified"}}
# What a package stays free of beyond the framework.
FREE_OF = {
    "unipic2_evals": ["torch"],
    "unipic2_dit": ["webdataset"],
    "unipic2_connector": ["webdataset", "transformers"],
    "unipic2_vlm": ["webdataset", "diffusers"],
    "unipic2_unified": ["webdataset"],
    "unipic2_apps": ["webdataset"],
}


def source(package: str) -> Path:
    name = package.removeprefix("unipic2_")
    return (ROOT / "apps" if name == "apps" else ROOT / "packages" / name) / "src" / package


def modules(package: str) -> list[str]:
    paths = sorted(source(package).rglob("*.py"))
    parts = [path.relative_to(source(package).parent).with_suffix("").parts for path in paths]
    return [".".join(part[:-1] if part[-1] == "__init__" else part) for part in parts]


IMPORT_WITHOUT = """
import importlib, sys

blocked, modules = set(sys.argv[1].split(",")), sys.argv[2].split(",")

class Without:
    # A package that is not there, rather than one that fails: others ask find_spec whether it exists.
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in blocked else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
for module in modules:
    importlib.import_module(module)
assert not blocked & {name.split(".")[0] for name in sys.modules}
"""


@pytest.mark.parametrize("package", UNTRAINED)
def test_imports_without_the_others(package):
    blocked = {*PACKAGES, *FRAMEWORK, *FREE_OF.get(package, [])} - {package, *SIBLINGS.get(package, ())}
    command = [sys.executable, "-c", IMPORT_WITHOUT, ",".join(sorted(blocked)), ",".join(modules(package))]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr


def imported(path: Path) -> set[str]:
    """Return the top-level names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names)


def declared(package: str) -> set[str]:
    """Return the normalised names of the distributions in a package's pyproject, extras included."""
    project = tomllib.loads((source(package).parents[1] / "pyproject.toml").read_text())["project"]
    needs = [
        *project["dependencies"],
        *(need for extra in project.get("optional-dependencies", {}).values() for need in extra),
    ]
    return {re.match(r"[\w.-]+", need)[0].lower().replace("_", "-") for need in needs}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_are_declared(package):
    providers = importlib.metadata.packages_distributions()
    missing = {}
    for path in sorted(source(package).rglob("*.py")):
        for name in imported(path) - {package}:
            distributions = {dist.lower().replace("_", "-") for dist in providers.get(name, [name])}
            if not distributions & declared(package):
                missing.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert not missing, f"imported, but not in {package}'s pyproject"


def strings(path: Path) -> list[str]:
    """Return the text constants of a file, documentation left out."""
    tree = ast.parse(path.read_text())
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in prose)
    return [node.value for node in constants if isinstance(node.value, str)]


@pytest.mark.parametrize("package", PACKAGES)
def test_names_in_strings_point_down(package):
    level = next(index for index, layer in enumerate(LAYERS) if package in layer)
    allowed = {package, *(name for layer in LAYERS[level + 1 :] for name in layer)}
    wrong = {
        (str(path.relative_to(ROOT)), name)
        for path in sorted(source(package).rglob("*"))
        if path.suffix in {".py", ".yaml", ".json", ".toml"}
        for text in (strings(path) if path.suffix == ".py" else [path.read_text()])
        for name in re.findall(r"\bunipic2_[a-z]+", text)
        if name not in allowed and name in PACKAGES
    }
    assert not wrong, "a class path in a string is an import too"
