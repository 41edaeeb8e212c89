"""A stage is thin: it builds, calls and logs. All else lives in objectives, callbacks and the packages below."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
STAGES = ROOT / "packages" / "train" / "src" / "unipic2_train" / "stages"
MAX_LINES = 250
# Plots, pictures, tracking and EMA are callbacks; functions of tensors are objectives.
FORBIDDEN_IMPORTS = {"matplotlib", "PIL", "mlflow", "numpy", "torch.nn.functional", "webdataset"}
# Of torch, a stage may name types and contexts, not compute.
ALLOWED_TORCH_CALLS = {"device", "no_grad", "inference_mode", "autocast"}


def stages() -> list[Path]:
    found = sorted(path for path in STAGES.glob("*.py") if path.name != "__init__.py")
    assert found, f"no stages in {STAGES}"
    return found


def imports(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_stages_are_short():
    lengths = {path.name: len(path.read_text().splitlines()) for path in stages()}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_stages_import_nothing_that_computes_or_draws():
    for path in stages():
        found = imports(ast.parse(path.read_text()))
        wrong = {name for name in found for bad in FORBIDDEN_IMPORTS if name == bad or name.startswith(f"{bad}.")}
        assert not wrong, path.name


def test_stages_do_no_tensor_maths_and_no_files():
    for path in stages():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            call = ast.unparse(node.func)
            module, _, name = call.rpartition(".")
            assert module not in {"torch", "F"} or name in ALLOWED_TORCH_CALLS, f"{path.name}:{node.lineno}: {call}"
            assert call not in {"open", "print", "torch.save", "torch.load"}, f"{path.name}:{node.lineno}: {call}"


def test_steps_hold_no_loops():
    for path in stages():
        steps = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef) and node.name in {"training_step", "validation_step", "test_step"}
        ]
        loops = [node for step in steps for node in ast.walk(step) if isinstance(node, ast.For | ast.While)]
        assert not loops, f"{path.name}:{loops[0].lineno if loops else ''}"


def test_no_stage_inherits_from_another():
    for path in stages():
        tree = ast.parse(path.read_text())
        bases = {ast.unparse(base) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases}
        assert all(not base.endswith("Stage") for base in bases), path.name
        assert not any(name.startswith("unipic2_train.stages") for name in imports(tree)), path.name
