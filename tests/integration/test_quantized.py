"""The extra ``quantized`` in an environment of its own, so that no other test pays for importing its libraries."""

import shutil

import pytest

LENT = (
    *("torch", "diffusers", "transformers", "peft", "accelerate", "jinja2", "jsonargparse", "tqdm", "numpy", "pillow"),
    *("fastapi", "uvicorn", "python-multipart", "prometheus-client", "pytest", "pytest-timeout"),
)
FOLDERS = ("packages/dit", "packages/connector", "packages/vlm", "packages/unified")
TESTED = {"packages/dit": "test_quantization.py", "packages/unified": "test_quantization.py"} | {
    "packages/vlm": "test_checkpoint.py",
    "apps": "test_quantization.py",
}


@pytest.mark.heavy
@pytest.mark.timeout(1800)
def test_quantised_weights(fresh_environment, repository, tmp_path):
    checkout = tmp_path / "checkout"
    for folder in (*FOLDERS, "apps", "tests/golden"):
        ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
        shutil.copytree(repository / folder, checkout / folder, ignore=ignored)
    fresh_environment.lend(*LENT)
    fresh_environment.pip_install(*(str(checkout / folder) for folder in FOLDERS), f"{checkout / 'apps'}[quantized]")
    assert {"torchao", "bitsandbytes"} <= fresh_environment.installed()
    for folder, file in TESTED.items():
        fresh_environment.run_tests(checkout / folder, file)
