from pathlib import Path

from unipic2_train import usage
from unipic2_train.recipes import available
from unipic2_train.workflows.pdtr import STAGES, arguments_of


def test_the_second_stage_is_told_where_the_first_left_its_model():
    words = arguments_of("tiny", "nft", "runs/x/edit-rl/export", Path("runs/x/t2i-rl"), "t2i-rl")
    assert words == [
        "--config",
        "t2i-rl/tiny",
        "--run_dir",
        "runs/x/t2i-rl",
        "--config",
        "edit-rl/layers/nft",
        "--model.kontext.checkpoint",
        "runs/x/edit-rl/export",
    ]


def test_what_help_names_is_shipped():
    assert STAGES == ("edit-rl", "t2i-rl")
    for stage in STAGES:
        assert {f"{stage}/{preset}" for preset in ("tiny", "sd35m", "debug")} <= set(available(stage))
    for name in ("pdtr-faithful", "pdtr-fast", "nft"):
        assert f"edit-rl/layers/{name}" in available()
        assert name in usage.PDTR
