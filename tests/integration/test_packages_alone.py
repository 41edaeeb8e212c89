"""A leaf, installed by pip into a fresh environment with what it declares and nothing else, passes its own tests.

torch alone is lent by the environment of the tests: it is declared by the package and too large to fetch again. The
tools that run the tests are lent too. Everything else comes from the package's own pyproject.
"""

import pytest

pytestmark = pytest.mark.slow

FORBIDDEN = {"lightning", "pytorch-lightning", "mlflow", "torchmetrics", "torchvision"}


@pytest.mark.parametrize(
    ("name", "extras", "lent", "absent"),
    [
        ("evals", "", [], {"torch", "diffusers", "transformers", "webdataset", "scipy"}),
        ("data", "[shapes,test]", ["torch"], {"diffusers", "transformers"}),
        ("connector", "", ["torch"], {"transformers"}),
        ("vlm", "", ["torch"], {"diffusers"}),
    ],
)
def test_package_alone(name, extras, lent, absent, fresh_environment, package_copy):
    package = package_copy(name)
    fresh_environment.lend("pytest", "hypothesis", *lent)
    fresh_environment.pip_install(f"{package}{extras}")

    packages = ("dit", "connector", "vlm", "unified", "data", "evals", "train", "apps")
    siblings = {f"unipic2-{other}" for other in packages if other != name}
    installed = fresh_environment.installed()
    assert f"unipic2-{name}" in installed
    assert not installed & (FORBIDDEN | absent | siblings)

    tests = fresh_environment.run(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-m", "not slow and not gpu"),
        "tests",
        cwd=package,  # so that processes which tests start find the tests' functions
    )
    assert tests.returncode == 0, tests.stdout + tests.stderr
    assert " passed" in tests.stdout
