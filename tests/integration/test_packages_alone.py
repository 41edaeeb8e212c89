"""A leaf, installed by pip into a fresh environment with what it declares and nothing else, works there.

Three things are proven of each: all its modules are packaged and import (so nothing is imported at the top that is not
declared), its commands work, and the tests pass that run through most of it. Its whole suite is not run again here:
`make test` has run it, and what is left out imports the same modules. ``tests/architecture`` reads the imports inside
functions.

What a leaf declares is lent by the environment of the tests, as links to the declared distributions and to all that
they require in turn; pip finds that nothing is missing, or fetches the rest. ``test_dit_alone`` lends nothing.
"""

import tomllib

import pytest

pytestmark = pytest.mark.slow

FORBIDDEN = {"lightning", "pytorch-lightning", "mlflow", "torchmetrics", "torchvision"}
PACKAGES = ("dit", "connector", "vlm", "unified", "data", "evals", "train", "apps")
FEW = [word for split in ("t2i", "edit", "validation", "test", "heldout") for word in (f"--{split}", "4")]
COMMANDS = {
    "unipic2-data": [["shapes", "world", "--workers", "1", *FEW], ["verify", "world"], ["stats", "world"]],
    "unipic2-evals": [["--help"], ["score", "--help"]],
}


@pytest.mark.parametrize(
    ("name", "extra", "absent", "tools", "tests"),
    [
        (
            "data",  # from foreign files to batches, and the shapes world
            "shapes",
            {"diffusers", "transformers"},
            ["hypothesis", "scikit-image", "pyarrow", "matplotlib", "urllib3"],
            ["test_importer.py", "test_loader.py", "test_manifest.py", "test_storage.py"],
        ),
        (
            "vlm",  # queries and answers run through backbone, processor and the small models
            None,
            {"diffusers"},
            [],
            ["test_queries.py", "test_understanding.py"],
        ),
        (
            "connector",
            None,
            {"transformers"},
            [],
            ["test_checkpoint.py", "test_conditioner.py"],
        ),
        (
            "evals",  # a command, its rules and the answers that it keeps
            None,
            {"torch", "diffusers", "transformers", "webdataset", "scipy"},
            ["hypothesis"],
            ["test_cli.py", "test_geneval.py", "test_scoring.py"],
        ),
    ],
)
def test_package_alone(name, extra, absent, tools, tests, fresh_environment, package_copy):
    package = package_copy(name)
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    fresh_environment.lend(*project["dependencies"], *(project["optional-dependencies"][extra] if extra else []))
    fresh_environment.pip_install(f"{package}[{extra}]" if extra else str(package))
    siblings = {f"unipic2-{other}" for other in PACKAGES if other != name}
    installed = fresh_environment.installed()
    assert f"unipic2-{name}" in installed
    assert not installed & (FORBIDDEN | absent | siblings)

    fresh_environment.import_all(f"unipic2_{name}", package / "src")
    for command in project.get("scripts", {}):
        for words in COMMANDS[command]:
            fresh_environment.succeed(str(fresh_environment.python.with_name(command)), *words, cwd=package)

    fresh_environment.lend("pytest", *tools)
    fresh_environment.run_tests(package, *tests)
