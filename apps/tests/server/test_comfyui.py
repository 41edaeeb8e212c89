"""The nodes for ComfyUI: its contract, and what they do against the real server."""

import ast
import importlib.util
import inspect
import json
import math
import re
import socket
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[2] / "comfyui"
WORKFLOWS = sorted((FOLDER / "example_workflows").glob("*.json"))
COMFY_HAS = {"torch", "numpy", "PIL"}
LINKED = {"IMAGE"}
WIDGETS = {"STRING": str, "INT": int, "FLOAT": float}
KEY = "a-key-of-the-tests"
SAMPLING = {"negative_prompt": "", "seed": 7, "steps": 2, "guidance": 2.0}


@pytest.fixture(scope="module")
def comfyui():
    """The folder, loaded as ComfyUI does: under a name made of its path, which no import statement could spell."""
    name = str(FOLDER).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, FOLDER / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield module
    for each in [each for each in sys.modules if each.startswith(name)]:
        del sys.modules[each]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("UNIPIC2_SERVER", "UNIPIC2_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def nodes(comfyui):
    return comfyui.NODE_CLASS_MAPPINGS


@pytest.fixture
def problem(comfyui):
    return sys.modules[f"{comfyui.__name__}.client"].UniPic2Error


def run(node, **values):
    return getattr(node(), node.FUNCTION)(**values)


def as_image(*pictures):
    return torch.from_numpy(np.stack([np.asarray(each) for each in pictures])).float() / 255


def levels(images):
    return (images * 255).round().to(torch.uint8).numpy()


def test_the_folder_needs_what_comfyui_has():
    for path in FOLDER.rglob("*.py"):
        for statement in ast.walk(ast.parse(path.read_text())):
            if isinstance(statement, ast.Import):
                names = {alias.name for alias in statement.names}
            elif isinstance(statement, ast.ImportFrom) and statement.level == 0:
                names = {statement.module}
            else:
                continue
            assert {name.split(".")[0] for name in names} <= COMFY_HAS | sys.stdlib_module_names, path


@pytest.mark.parametrize("name", ["UniPic2Generate", "UniPic2Edit", "UniPic2Ask"])
def test_nodes_keep_the_contract(comfyui, nodes, name):
    assert set(nodes) == set(comfyui.NODE_DISPLAY_NAME_MAPPINGS) == {"UniPic2Generate", "UniPic2Edit", "UniPic2Ask"}
    node = nodes[name]
    inputs = node.INPUT_TYPES()
    assert set(inputs) == {"required"}
    for kind, options in inputs["required"].values():
        assert kind in LINKED | set(WIDGETS)
        if kind in WIDGETS:
            default = options["default"]
            assert type(default) is WIDGETS[kind]
            assert kind == "STRING" or options["min"] <= default <= options["max"]
    json.dumps(inputs)  # it is sent to the page
    given = inspect.signature(getattr(node, node.FUNCTION)).parameters
    assert list(given) == ["self", *inputs["required"]]
    assert isinstance(node.RETURN_TYPES, tuple)
    assert set(node.RETURN_TYPES) <= {"IMAGE", "STRING"}
    assert len(getattr(node, "RETURN_NAMES", node.RETURN_TYPES)) == len(node.RETURN_TYPES)
    assert (node.CATEGORY, bool(node.DESCRIPTION)) == ("UniPic2", True)
    assert getattr(node, "OUTPUT_NODE", False) is False
    for hook in (node.VALIDATE_INPUTS, node.IS_CHANGED):
        known = inspect.signature(hook).parameters
        assert all(each in inputs["required"] or each == "_" for each in known)
        assert all(each.default is None for each in known.values() if each.kind is not each.VAR_KEYWORD)


def test_inputs_are_checked_before_anything_runs(nodes):
    check = nodes["UniPic2Generate"].VALIDATE_INPUTS
    assert check() is True
    for server in ("http://127.0.0.1:8000", "https://host/prefix/", " http://[::1]:8000/v1 "):
        assert check(server=server, prompt="x") is True
    for server in (
        "",
        "host",
        "ftp://host",
        "http://",
        "http://host:x",
        "http://me@host",
        "http://host/?a",
        "http://[::",
    ):
        assert "unipic2 serve" in check(server=server)
    assert "prompt is empty" in check(prompt=" \n")


def test_drawing_is_what_the_model_draws(nodes, server, kontext):
    given = {"prompt": "a red circle", **SAMPLING, "width": 32, "height": 16, "batch_size": 2, "server": server.url}
    (images,) = run(nodes["UniPic2Generate"], **given)
    assert (images.shape, images.dtype) == ((2, 16, 32, 3), torch.float32)
    expected = kontext.generate(["a red circle"] * 2, steps=2, guidance=2.0, seed=[7, 8], size=(16, 32))
    difference = np.abs(levels(images).astype(int) - np.stack([np.asarray(each) for each in expected]))
    assert difference.max() <= 1
    (own,) = run(nodes["UniPic2Generate"], **{**given, "width": 0, "height": 0, "batch_size": 1})
    assert own.shape[1] == own.shape[2]


def test_each_picture_of_a_batch_is_edited(nodes, server, picture):
    first, second = picture(1, 24, 16), picture(2, 24, 16)
    given = {"prompt": "make it red", **SAMPLING, "server": server.url}
    (both,) = run(nodes["UniPic2Edit"], image=as_image(first, second), **given)
    assert both.shape == (2, 16, 24, 3)
    transparent = torch.cat([as_image(second), torch.zeros(1, 16, 24, 1)], -1)
    (alone,) = run(nodes["UniPic2Edit"], image=transparent, **{**given, "seed": 8})
    assert torch.allclose(both[1:], alone, atol=1.5 / 255)
    assert not torch.allclose(both[:1], alone, atol=0.1)


def test_questions_are_answered(nodes, asking_server, metaquery, picture):
    given = {"prompt": "what is it?", "max_tokens": 6, "temperature": 0.0, "seed": 0, "server": asking_server.url}
    (answer,) = run(nodes["UniPic2Ask"], image=as_image(picture(1), picture(2)), **given)
    assert answer == metaquery.ask([picture(1), picture(2)], "what is it?", max_new_tokens=6)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_workflows_run(comfyui, nodes, path, request, picture):
    """What ComfyUI's page and its queue do with a workflow, with stand-ins for its own four nodes."""
    workflow = json.loads(path.read_text())
    url = request.getfixturevalue("asking_server" if path.stem == "ask" else "server").url
    links = {link[0]: link for link in workflow["links"]}
    own = {
        "LoadImage": lambda: (as_image(picture(1)), None),
        "PreviewImage": lambda images: (),
        "SaveImage": lambda images: (),
        "PreviewAny": lambda source: (source,),
    }
    made, reached = {}, set()
    for node in sorted(workflow["nodes"], key=lambda node: node["order"]):
        values = {}
        for slot, entry in enumerate(node["inputs"]):
            _, source, source_slot, target, target_slot, kind = links[entry["link"]]
            assert (target, target_slot) == (node["id"], slot)
            assert entry["type"] in (kind, "*")
            values[entry["name"]] = made[source][source_slot]
        for slot, entry in enumerate(node["outputs"]):
            assert all(links[link][1:3] == [node["id"], slot] for link in entry["links"] or ())
        if node["type"] in own:
            made[node["id"]] = own[node["type"]](**values)
        else:
            kind = nodes[node["type"]]
            assert [entry["type"] for entry in node["outputs"]] == list(kind.RETURN_TYPES)
            widgets = widget_values(kind, node["widgets_values"])
            assert kind.VALIDATE_INPUTS(server=widgets["server"], prompt=widgets["prompt"]) is True
            widgets |= {"server": url, **({"steps": 2} if "steps" in widgets else {"max_tokens": 4})}
            made[node["id"]] = run(kind, **values, **widgets)
            reached.add(node["type"])
    assert reached == ({"UniPic2Ask"} if path.stem == "ask" else {"UniPic2Generate", "UniPic2Edit"})


def widget_values(kind, given):
    """Name the values of a workflow; behind each seed stands what happens to it after a run."""
    values, rest = {}, list(given)
    for name, (type_, options) in kind.INPUT_TYPES()["required"].items():
        if type_ not in WIDGETS:
            continue
        values[name] = rest.pop(0)
        assert type(values[name]) is WIDGETS[type_], name
        if options.get("control_after_generate"):
            assert rest.pop(0) in {"fixed", "increment", "decrement", "randomize"}
    assert rest == []
    return values


def test_results_are_kept_until_the_server_has_another_model(nodes, server, serve, kontext, in_thread, problem):
    changed = nodes["UniPic2Edit"].IS_CHANGED
    first = changed(server=server.url, prompt="x", seed=1)
    assert first == changed(server=server.url + "/v1/")
    assert math.isnan(changed(prompt="x"))
    with serve([in_thread(kontext)], name="other") as other:
        assert changed(server=other.url) != first
    with pytest.raises(problem, match="unipic2 serve"):
        changed(server=other.url)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": 9}, r"refused \(400\): n: 9 pictures are more than this server allows"),
        ({"width": 16}, "give width and height"),
        ({"prompt": ""}, "prompt: it is empty"),
        ({"prompt": "x" * 2**21}, r"refused \(413\)"),
        ({"server": "http://127.0.0.1:1"}, "no UniPic2 server answers at http://127.0.0.1:1 .*unipic2 serve"),
    ],
)
def test_refusals_reach_the_person(nodes, server, problem, change, said):
    given = {"prompt": "x", **SAMPLING, "width": 0, "height": 0, "batch_size": 1, "server": server.url, **change}
    with pytest.raises(problem, match=said):
        run(nodes["UniPic2Generate"], **given)


def test_a_model_that_can_not_answer_says_so(nodes, server, picture, problem):
    given = {"prompt": "what?", "max_tokens": 6, "temperature": 0.0, "seed": 0, "server": server.url}
    with pytest.raises(problem, match="a MetaQuery checkpoint answers"):
        run(nodes["UniPic2Ask"], image=as_image(picture(1)), **given)
    with pytest.raises(problem, match=r"the shape \(16, 16, 3\)"):
        run(nodes["UniPic2Ask"], image=as_image(picture(1))[0], **given)


def test_the_key_goes_to_its_own_server_only(nodes, serve, kontext, in_thread, problem, monkeypatch):
    changed = nodes["UniPic2Edit"].IS_CHANGED
    with serve([in_thread(kontext)], keys=[KEY]) as locked:
        with pytest.raises(problem, match=r"refused \(401\).*UNIPIC2_API_KEY"):
            changed(server=locked.url)
        monkeypatch.setenv("UNIPIC2_API_KEY", f"{KEY}\n")
        with pytest.raises(problem, match=r"refused \(401\).*to no other"):
            changed(server=locked.url)
        monkeypatch.setenv("UNIPIC2_SERVER", f"{locked.url}/")
        assert changed(server=locked.url).startswith("tiny ")
        assert nodes["UniPic2Edit"].INPUT_TYPES()["required"]["server"][1]["default"] == f"{locked.url}/"


@pytest.fixture
def stranger():
    """A server that answers one request with given bytes, or not at all, and waits until the client is gone."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        seen = []

        def answer(reply):
            connection, _ = listening.accept()
            with connection:
                seen.append(connection.recv(65536))
                connection.sendall(reply)
                while more := connection.recv(65536):
                    seen.append(more)
            seen.append("gone")

        def start(reply):
            thread = threading.Thread(target=answer, args=(reply,), daemon=True)
            thread.start()
            return f"http://127.0.0.1:{listening.getsockname()[1]}", thread, seen

        yield start


def replied(status, body, *headers):
    return "\r\n".join([f"HTTP/1.1 {status} X", *headers, f"Content-Length: {len(body)}", "", body]).encode()


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (replied(200, "<html>"), "not as a UniPic2 server"),
        (replied(200, '{"data": []}'), "not as a UniPic2 server"),
        (replied(502, "[]"), r"answers \(502\)"),
        (replied(302, "", "Location: http://elsewhere.test/"), r"answers \(302\)"),
        (b"SSH-2.0-x\r\n", "no UniPic2 server answers"),
    ],
)
def test_other_servers_are_told_apart(nodes, stranger, problem, reply, said):
    with pytest.raises(problem, match=said):
        nodes["UniPic2Edit"].IS_CHANGED(server=stranger(reply)[0])


@pytest.mark.parametrize("data", ["[]", '[{"b64_json": "eA=="}]', '[{"url": "x"}]'])
def test_answers_without_pictures_are_told(nodes, stranger, problem, data):
    url, _, _ = stranger(replied(200, f'{{"data": {data}}}'))
    with pytest.raises(problem, match="nothing that this node can read"):
        run(nodes["UniPic2Edit"], image=torch.zeros(1, 16, 16, 3), prompt="x", **SAMPLING, server=url)


def test_cancelling_leaves_the_server(nodes, stranger, monkeypatch):
    class CancelledError(Exception):
        pass

    url, thread, seen = stranger(b"")

    def look():
        if seen:
            raise CancelledError

    monkeypatch.setitem(
        sys.modules,
        "comfy.model_management",
        types.SimpleNamespace(throw_exception_if_processing_interrupted=look),
    )
    with pytest.raises(CancelledError):
        run(nodes["UniPic2Edit"], image=torch.zeros(1, 16, 16, 3), prompt="x", **SAMPLING, server=url)
    thread.join(300)
    assert seen[-1] == "gone"


def test_a_server_that_hangs_is_not_waited_for(comfyui, stranger, problem, monkeypatch):
    client = sys.modules[f"{comfyui.__name__}.client"]
    # ComfyUI forgets a cancellation once it is told: a bounded wait must leave it to the node's run.
    monkeypatch.setitem(sys.modules, "comfy.model_management", types.SimpleNamespace())
    url, thread, seen = stranger(b"")
    with pytest.raises(problem, match=re.escape(f"{url} did not answer within 0.2 s")):
        client.model_of(url, patience=0.2)
    thread.join(300)
    assert seen[-1] == "gone"
