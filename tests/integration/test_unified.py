"""The unified package with its three siblings and nothing else: a person installs four folders and uses a checkpoint.

What the packages declare is lent by the environment of the tests, as far as it is there, or fetched.
"""

import shutil

import pytest

LENT = ("torch", "diffusers", "transformers", "peft", "accelerate", "jinja2", "jsonargparse", "tqdm", "numpy", "pillow")
FOREIGN = {"lightning", "pytorch-lightning", "mlflow", "torchmetrics", "torchvision", "webdataset"}
SIBLINGS = ("dit", "connector", "vlm")
TESTS = ("test_main.py", "test_prompts.py", "test_requests.py")
"""Commands, which run through generating, editing and asking; `make test` runs the rest."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_unified_with_its_siblings_alone(fresh_environment, package_copy, repository, tmp_path):
    package = package_copy("unified")
    folders = [tmp_path / "siblings" / name for name in SIBLINGS]
    for name, folder in zip(SIBLINGS, folders, strict=True):
        ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__", "tests")
        shutil.copytree(repository / "packages" / name, folder, ignore=ignored)
    fresh_environment.lend(*LENT)
    fresh_environment.pip_install(*map(str, folders), str(package))
    installed = fresh_environment.installed()
    assert {name for name in installed if name.startswith("unipic2-")} == {
        "unipic2-unified",
        *(f"unipic2-{name}" for name in SIBLINGS),
    }
    assert not installed & FOREIGN

    fresh_environment.import_all("unipic2_unified", package / "src")
    fresh_environment.lend("pytest")
    fresh_environment.run_tests(package, *TESTS)
