"""VLM, queries, connector and DiT as one system: who sees the picture, what learns, what is dropped and exported."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from unipic2_connector import load_conditioner
from unipic2_dit.checkpoint import load_transformer
from unipic2_train.conditioner import ConnectorConfig
from unipic2_train.kontext import Kontext, KontextConfig
from unipic2_train.metaquery import MetaQuery, MetaQueryConfig
from unipic2_train.objectives.flow_matching import FlowMatchingConfig
from unipic2_train.sampler import SamplingConfig
from unipic2_train.training_checkpoint import trainable_parameters
from unipic2_vlm import FrozenProof

CPU = torch.device("cpu")
SIZES = ConnectorConfig(4, 16, 32, 1, 2, positions="mrope")


@pytest.fixture(scope="module")
def kontext(foundation, tmp_path_factory):
    """A model folder whose transformer's output depends on its input."""
    from unipic2_train.system import build_transformer

    folder = shutil.copytree(foundation, tmp_path_factory.mktemp("kontext") / "model")
    made = build_transformer(foundation, "scratch", seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    made.save_pretrained(folder / "transformer")
    return folder


@pytest.fixture
def config(kontext, small_vlm):
    return MetaQueryConfig(
        checkpoint=str(kontext),
        vlm=str(small_vlm.start),
        connector=SIZES,
        sampling=SamplingConfig(steps=2, guidance=2.0),
        objective=FlowMatchingConfig(text_dropout=0.0),
    )


def test_queries_and_connector_learn_and_nothing_else(config, batch):
    system = MetaQuery(config, "connector", "both", CPU)
    proof = FrozenProof.of(system.frozen.encoder.backbone)
    assert {name.split(".")[0] for name in trainable_parameters(system)} == {"conditioner"}
    assert not any("vlm" in name or "model" in name for name, _ in system.named_parameters())
    system.training_loss(batch("t2i", 4)).loss.backward()
    assert all(parameter.grad is not None for parameter in system.conditioner.parameters())
    assert all(parameter.grad is None for parameter in system.transformer.parameters())
    proof.verify(system.frozen.encoder.backbone)
    assert set(system.untrained()) == {"vae", "transformer"}


@pytest.mark.parametrize(
    ("trained", "learns"), [("transformer", {"transformer"}), ("both", {"transformer", "conditioner"})]
)
def test_each_is_freezable(config, batch, trained, learns):
    system = MetaQuery(config, trained, "both", CPU)
    system.training_loss(batch("edit", 2)).loss.backward()
    moved = {name.split(".")[0] for name, parameter in system.named_parameters() if parameter.grad is not None}
    assert moved == learns


@pytest.mark.parametrize(
    ("reference", "in_vlm", "in_dit"), [("vlm", True, False), ("dit", False, True), ("both", True, True)]
)
def test_who_sees_the_picture(config, batch, reference, in_vlm, in_dit):
    system = MetaQuery(config, "both", reference, CPU)
    edits = batch("edit", 2)
    other = replace(edits, reference_bytes=255 - edits.reference_bytes)
    with torch.no_grad():
        one, two = system.frozen.encode(edits), system.frozen.encode(other)
    differs = (one.conditioning.prompt_embeds - two.conditioning.prompt_embeds).abs().max() > 1e-5
    assert bool(differs) == in_vlm
    assert (one.references is not None) == in_dit
    conditions = system.frozen.conditions(edits)
    assert len(conditions.negative.prompt_embeds) == (2 if in_vlm else 1)
    assert (conditions.references is not None) == in_dit
    torch.testing.assert_close(conditions.positive, one.conditioning)


def test_a_dropped_prompt_is_the_empty_prompt_and_keeps_its_picture(config, batch):
    edits = batch("edit", 3)
    dropped = replace(config, objective=FlowMatchingConfig(text_dropout=1.0))
    empty = replace(edits, prompts=[""] * 3)
    loss = MetaQuery(dropped, "both", "both", CPU).training_loss(edits)
    kept = MetaQuery(config, "both", "both", CPU)
    torch.testing.assert_close(loss.per_row, kept.training_loss(empty).per_row)
    assert (loss.per_row - kept.training_loss(edits).per_row).abs().max() > 1e-6


def test_a_row_does_not_depend_on_its_batch(config, batch):
    system = MetaQuery(config, "both", "both", CPU)
    edits = batch("edit", 4)
    with torch.no_grad():
        whole = system.training_loss(edits).per_row
    parts = {name: value[:1] for name, value in vars(edits).items() if isinstance(value, (list, torch.Tensor))}
    with torch.no_grad():
        alone = system.training_loss(replace(edits, **parts)).per_row
    torch.testing.assert_close(alone, whole[:1], rtol=1e-4, atol=1e-6)


def test_new_weights_depend_on_the_seed_alone(config):
    torch.manual_seed(1)
    one = MetaQuery(config, "connector", "both", CPU).conditioner
    torch.manual_seed(2)
    two = MetaQuery(config, "connector", "both", CPU).conditioner
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    torch.testing.assert_close(one.meta_queries.norm(dim=1), torch.ones(4), rtol=0.5, atol=0)


@pytest.mark.parametrize("reference", ["both", "dit"])
def test_an_export_loads_everywhere_and_training_goes_on_from_it(config, batch, tmp_path, reference):
    system = MetaQuery(config, "connector", reference, CPU)
    with torch.no_grad():
        system.conditioner.meta_queries.add_(1.0)
    system.export(tmp_path / "export", {"run": "test"}, write=True)
    conditioner = load_conditioner(tmp_path / "export")
    assert torch.equal(conditioner.meta_queries, system.conditioner.meta_queries)
    transformer = load_transformer(tmp_path / "export")
    assert all(
        torch.equal(a, b) for a, b in zip(transformer.parameters(), system.transformer.parameters(), strict=True)
    )
    written = json.loads((tmp_path / "export" / "conditioner" / "config.json").read_text())
    assert written.get("reference", "both") == reference
    assert not (tmp_path / "export" / "text_encoder").exists()
    again = replace(config, checkpoint=str(tmp_path / "export"), conditioner=str(tmp_path / "export"), connector=None)
    after = MetaQuery(again, "both", reference, CPU)
    torch.testing.assert_close(after.training_loss(batch("t2i", 2)).loss, system.training_loss(batch("t2i", 2)).loss)
    assert system.generate(batch("edit", 2)).shape == (2, 32, 32, 3)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"connector": None}, "either conditioner"),
        ({"conditioner": "somewhere"}, "the other one null"),
    ],
)
def test_either_a_conditioner_or_sizes(config, changes, says):
    with pytest.raises(ValueError, match=says):
        MetaQuery(replace(config, **changes), "connector", "both", CPU)


def test_a_conditioner_of_another_preset(config, tmp_path):
    MetaQuery(config, "connector", "both", CPU).export(tmp_path / "export", {}, write=True)
    file = tmp_path / "export" / "conditioner" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"joint_attention_dim": 48}))
    wrong = replace(config, conditioner=str(tmp_path / "export"), connector=None)
    with pytest.raises(ValueError, match="joint_attention_dim 48 against 32"):
        MetaQuery(wrong, "connector", "both", CPU)


def test_caches_of_other_encoders_are_refused(config, batch):
    system = MetaQuery(config, "both", "both", CPU)
    edits = batch("edit", 2)
    with pytest.raises(ValueError, match=r"data\.cache\.text"):
        system.frozen.encode(replace(edits, prompt_embeds=torch.zeros(2, 3, 32)))
    with pytest.raises(ValueError, match="a cache of latents has none"):
        system.frozen.encode(replace(edits, reference_bytes=None))


def test_a_unified_checkpoint_is_a_policy_for_reinforcement(config, batch, small_vlm, tmp_path):
    """Conditioned as it was trained, with its conditioner frozen; and not without its VLM."""
    system = MetaQuery(config, "both", "dit", CPU)
    system.export(tmp_path / "export", {}, write=True)
    policy = Kontext(KontextConfig(str(tmp_path / "export"), vlm=str(small_vlm.start), sampling=config.sampling), CPU)
    assert {name.split(".")[0] for name in trainable_parameters(policy)} == {"transformer"}
    edits = batch("edit", 2)
    assert torch.equal(policy.generate(edits), system.generate(edits))
    torch.testing.assert_close(policy.validation_loss(edits), system.validation_loss(edits))
    policy.export(tmp_path / "policy", {}, write=True)
    written = json.loads((tmp_path / "policy" / "conditioner" / "config.json").read_text())
    assert written["reference"] == "dit"
    with pytest.raises(ValueError, match=r"name its VLM by model\.kontext\.vlm"):
        Kontext(KontextConfig(str(tmp_path / "export")), CPU)
