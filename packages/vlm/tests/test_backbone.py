import pytest
import torch

from unipic2_vlm.backbone import QwenVLBackbone
from unipic2_vlm.positions import count_positions

PICTURE_TOKENS = 16


def case(parity, name):
    given = {key: parity[f"{name}.{key}"] for key in ("input_ids", "attention_mask")}
    if name == "edit":
        given |= {key: parity[key] for key in ("pixel_values", "image_grid_thw")}
    return given


def row(given, index):
    """One row of a batch, without padding."""
    kept = given["attention_mask"][index].bool()
    alone = {key: given[key][index : index + 1, kept] for key in ("input_ids", "attention_mask")}
    if "pixel_values" in given:
        patches = given["pixel_values"].chunk(len(given["input_ids"]))[index]
        alone |= {"pixel_values": patches, "image_grid_thw": given["image_grid_thw"][index : index + 1]}
    return alone


def left_padded(given):
    """The same rows with their padding on the left."""
    moved = dict(given)
    for key in ("input_ids", "attention_mask"):
        lengths = given["attention_mask"].sum(dim=1)
        moved[key] = torch.stack(
            [line.roll(line.shape[0] - int(n)) for line, n in zip(given[key], lengths, strict=True)]
        )
    return moved


@pytest.mark.parametrize("name", ["t2i", "edit"])
def test_equals_the_released_implementation(backbone, parity, name):
    states = backbone.query_states(**case(parity, name), queries=parity["queries"])
    assert (states - parity[f"{name}.query_states"]).abs().max() < 1e-5
    own = parity["queries"].expand(2, -1, -1)
    assert torch.equal(backbone.query_states(**case(parity, name), queries=own), states)


@pytest.mark.parametrize("positions", ["1d", "mrope"])
@pytest.mark.parametrize("name", ["t2i", "edit"])
@pytest.mark.parametrize("pad", [lambda given: given, left_padded], ids=["right", "left"])
def test_a_row_alone_is_the_row_in_a_batch(backbone, parity, name, pad, positions):
    given = case(parity, name)
    options = {"queries": parity["queries"], "positions": positions}
    together = backbone.query_states(**pad(given), **options)
    for index in range(2):
        alone = backbone.query_states(**row(given, index), **options)
        assert (together[index] - alone[0]).abs().max() < 1e-5


def stock_states(backbone, given, query_ids, **options):
    """What the stock model gives if the queries are words, which it can place by itself."""
    rows = len(given["input_ids"])
    ids = torch.cat((given["input_ids"], query_ids.expand(rows, -1)), dim=1)
    mask = torch.cat((given["attention_mask"], torch.ones(rows, len(query_ids), dtype=torch.long)), dim=1)
    pictures = {key: given[key] for key in ("pixel_values", "image_grid_thw") if key in given}
    is_image = (ids == backbone.image_token_id).int()
    return backbone.model.model(
        input_ids=ids, attention_mask=mask, mm_token_type_ids=is_image, use_cache=False, **pictures, **options
    )


def test_mrope_is_the_stock_model_and_not_the_released_one(backbone, parity):
    given = case(parity, "edit")
    query_ids = torch.tensor([14, 15, 16, 17])
    queries = backbone.model.get_input_embeddings()(query_ids)
    mrope = backbone.query_states(**given, queries=queries, positions="mrope")
    stock = stock_states(backbone, given, query_ids).last_hidden_state[:, -4:]
    assert (mrope - stock).abs().max() < 1e-5
    assert (mrope - backbone.query_states(**given, queries=queries)).abs().max() > 1e-3


def test_both_modes_are_one_without_pictures(backbone, parity):
    given = case(parity, "t2i")
    one = backbone.query_states(**given, queries=parity["queries"])
    assert torch.equal(one, backbone.query_states(**given, queries=parity["queries"], positions="mrope"))


def test_counted_positions():
    counted = count_positions(torch.tensor([[1, 1, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1]]))
    assert counted.shape == (3, 2, 6)
    assert counted[0].tolist() == [[0, 1, 1, 1, 2, 3], [1, 1, 0, 1, 2, 3]]


def test_states_of_several_layers_stand_side_by_side(backbone, parity):
    given = case(parity, "t2i")
    query_ids = torch.tensor([14, 15])
    queries = backbone.model.get_input_embeddings()(query_ids)
    states = backbone.query_states(**row(given, 0), queries=queries, layers=(0, 2, -1))
    stock = stock_states(backbone, row(given, 0), query_ids, output_hidden_states=True).hidden_states
    assert states.shape == (1, 2, 3 * backbone.hidden_size)
    for part, layer in zip(states.chunk(3, dim=-1), (0, 2, -1), strict=True):
        assert (part - stock[layer][:, -2:]).abs().max() < 1e-5
    assert torch.equal(states[..., : backbone.hidden_size], queries[None])
    assert torch.equal(
        states[..., -backbone.hidden_size :], backbone.query_states(**row(given, 0), queries=queries, layers=(-1,))
    )


@pytest.mark.parametrize("layers", [(), (4,), (-5,)])
def test_unknown_layers_are_refused(backbone, parity, layers):
    with pytest.raises(ValueError, match=r"0 \(embeddings\) to 3 \(last layer\)"):
        backbone.query_states(**case(parity, "t2i"), queries=parity["queries"], layers=layers)


def gradient(backbone, parity):
    queries = parity["queries"].clone().requires_grad_()
    backbone.query_states(**case(parity, "edit"), queries=queries).square().sum().backward()
    return queries.grad


def test_gradients_reach_the_queries_and_nothing_else(backbone, parity):
    assert (gradient(backbone, parity).abs().amax(dim=1) > 0).all()
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_gradient_checkpointing_changes_no_gradient(backbone, parity):
    expected = gradient(backbone, parity)
    calls = []
    backbone.model.model.language_model.layers[1].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    gradient(backbone, parity)
    once = len(calls)
    backbone.enable_gradient_checkpointing()
    torch.testing.assert_close(gradient(backbone, parity), expected)
    assert len(calls) == 3 * once
    assert not backbone.model.get_input_embeddings()(torch.tensor([1])).requires_grad


def test_an_answer_in_between_changes_nothing(backbone, parity):
    """``generate`` leaves positions behind that the stock model would use again."""
    given = case(parity, "edit")
    before = backbone.query_states(**given, queries=parity["queries"])
    is_image = (given["input_ids"] == backbone.image_token_id).int()
    backbone.model.generate(**given, mm_token_type_ids=is_image, max_new_tokens=2)
    assert torch.equal(before, backbone.query_states(**given, queries=parity["queries"]))


def test_weights_and_queries_may_have_other_dtypes(parity_folder, parity):
    backbone = QwenVLBackbone.from_pretrained(parity_folder, dtype=torch.bfloat16)
    states = backbone.query_states(**case(parity, "edit"), queries=parity["queries"])
    assert states.dtype == torch.bfloat16
    expected = parity["edit.query_states"]
    assert (states.float() - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixel_values": None, "image_grid_thw": None}, r"hold 32 image tokens \(id 5\), but the 0 pictures make 0"),
        ({"image_grid_thw": None}, "belong together"),
        ({"image_grid_thw": torch.tensor([[1, 8, 8]])}, "hold 32 image tokens .*, but the 1 pictures make 16"),
        ({"queries": torch.zeros(8, 40)}, "width 40, but this VLM's hidden size is 48"),
        ({"positions": "2d"}, "known are '1d', 'mrope'"),
    ],
)
def test_what_does_not_fit_is_refused(backbone, parity, change, message):
    with pytest.raises(ValueError, match=message):
        backbone.query_states(**{**case(parity, "edit"), "queries": parity["queries"], **change})


def test_a_missing_image_token_is_named(backbone, parity):
    given = case(parity, "edit")
    given["input_ids"] = given["input_ids"].clone()
    given["input_ids"][0, 2] = 7
    with pytest.raises(ValueError, match=r"hold 31 image tokens .*, but the 2 pictures make 32"):
        backbone.query_states(**given, queries=parity["queries"])


def test_more_tokens_than_the_vlm_reads_are_refused(backbone, parity):
    backbone.model.config.text_config.max_position_embeddings = 33
    with pytest.raises(ValueError, match=r"26 tokens .* 8 more are 34, but this VLM reads 33"):
        backbone.query_states(**case(parity, "edit"), queries=parity["queries"])
