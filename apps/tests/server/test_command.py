import socket

import pytest

from unipic2_apps.errors import UsageError
from unipic2_apps.options import ModelOptions
from unipic2_apps.server.command import serve
from unipic2_apps.server.moderation import load_hook
from unipic2_apps.server.options import LimitOptions, ServerOptions


def refused(**options):
    with pytest.raises(UsageError) as caught:
        serve(model=ModelOptions(checkpoint="unused"), server=ServerOptions(**options), limits=LimitOptions())
    return str(caught.value)


def test_what_is_wrong_is_said_before_a_model_is_loaded(tmp_path):
    keys = tmp_path / "keys"
    assert "can't be read" in refused(api_keys=str(keys))
    keys.write_text("\n \n")
    assert "holds no key" in refused(api_keys=str(keys))
    assert "can't listen on 256.0.0.1:0" in refused(host="256.0.0.1", port=0)
    assert "can't listen on 127.0.0.1:70000" in refused(port=70000)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "choose another --port" in refused(port=taken.getsockname()[1])
    assert "names no function" in refused(moderation="nowhere:nothing")
    assert "--allow-urls 'https://host' is no host" in refused(allow_urls=["good.example", "https://host"])
    assert "is a str, not a function" in refused(moderation="string:digits")


def test_hooks_are_found_by_name():
    assert load_hook("os.path:basename")("a/b") == "b"
