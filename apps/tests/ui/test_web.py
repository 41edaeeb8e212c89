import asyncio
import importlib.metadata

import httpx
import pytest

from unipic2_apps.ui.client import Client, Settings
from unipic2_apps.ui.fields import FieldError, Fields
from unipic2_apps.ui.history import Histories, Shelf
from unipic2_apps.ui.tab import BROWSER_COOKIE, Context
from unipic2_apps.ui.web import create_page

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return Context(Client(NOWHERE), Shelf(tmp_path_factory.mktemp("shelf")), Histories())


@pytest.fixture(scope="module")
def visit(context):
    app = create_page(context, "127.0.0.1")

    def get(path="/", host="127.0.0.1:7860", **headers):
        async def got():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}") as client:
                return await client.get(path, headers=headers)

        return asyncio.run(got())

    return get


def test_the_page_is_there_and_knows_the_browser_again(visit):
    answer = visit()
    assert answer.status_code == 200
    assert 'content="UniPic2"' in answer.text
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith(f"{BROWSER_COOKIE}=")
    assert {"HttpOnly", "SameSite=Strict"} <= set(cookie.split("; "))
    assert "Set-Cookie" not in visit(cookie=cookie.split(";")[0]).headers


def test_nothing_from_elsewhere_is_loaded(visit):
    policy = visit().headers["Content-Security-Policy"]
    assert "http" not in policy
    assert "*" not in policy
    assert "default-src 'self'" in policy


def test_a_foreign_name_for_this_machine_is_refused(visit):
    assert visit(host="evil.test").status_code == 400
    assert visit(host="localhost").status_code == 200
    assert visit(host="[::1]:7860").status_code == 200


def test_pictures_are_offered_and_other_files_are_not(visit, context, picture, as_file, tmp_path):
    path = context.shelf.keep(as_file(picture()), "a circle")
    assert visit(f"/gradio_api/file={path}").content == as_file(picture())
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    assert visit(f"/gradio_api/file={secret}").status_code == 403
    assert visit(f"/gradio_api/file={path.parent}/../../secret.txt").status_code in {403, 404}


def test_nothing_installs_a_lightning_script():
    for name in ("gradio", "gradio-client", "hf-gradio", "playwright"):
        scripts = importlib.metadata.distribution(name).entry_points.select(group="console_scripts")
        assert "lightning" not in scripts.names


@pytest.mark.parametrize(
    ("seed", "locked", "last", "expected"),
    [
        ("7", True, "7", 7),
        ("7", False, "7", None),  # it is only shown
        ("8", False, "7", 8),  # it was written
        (" 8 ", False, "", 8),
        ("", True, "7", None),
    ],
)
def test_a_seed_counts_if_it_is_meant(seed, locked, last, expected):
    settings = Settings("64x64", "blur", 30, 2.0, expected, 2)
    assert Fields.read(2, seed, locked, 30, 2.0, "blur", "64x64", last) == settings


def test_a_seed_is_a_number():
    with pytest.raises(FieldError, match="the seed is 'seven'; write a whole number"):
        Fields.read(1, "seven", False, None, None, "", "", "7")
