"""``pip install ./packages/dit`` in a fresh environment is enough to generate and to edit.

Nothing is lent to this environment, torch included: it is what a person gets who wants the DiT and nothing else.
"""

import pytest

FOREIGN = {"lightning", "pytorch-lightning", "mlflow", "webdataset", "torchmetrics", "torchvision"}
COMPARE = """
import numpy, PIL.Image
made, edited = (numpy.asarray(PIL.Image.open(name)) for name in ("made.png", "edited.png"))
print(made.shape, edited.shape, (made != edited).any())
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_generate_and_edit_in_a_fresh_environment(fresh_environment, package_copy, tmp_path):
    package = package_copy("dit")
    fresh_environment.pip_install(str(package))
    installed = fresh_environment.installed()
    assert {"unipic2-dit", "torch"} <= installed
    assert not installed & FOREIGN
    assert not {name for name in installed if name.startswith("unipic2-")} - {"unipic2-dit"}

    fresh_environment.import_all("unipic2_dit", package / "src")

    def run(*arguments: str) -> str:
        return fresh_environment.succeed(*arguments, cwd=tmp_path)

    run(str(package / "tests" / "tiny_checkpoint.py"), "checkpoint")
    given = ("--checkpoint", "checkpoint", "--steps", "2", "--prompt", "a red circle")
    run("-m", "unipic2_dit", "generate", *given, "--size", "24x16", "--out", "made.png")
    run("-m", "unipic2_dit", "edit", *given, "--image", "made.png", "--out", "edited.png")
    assert run("-c", COMPARE).strip() == "(16, 24, 3) (16, 24, 3) True"
