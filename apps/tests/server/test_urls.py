"""Pictures by URL. A server on this machine stands in for hosts of the internet: nothing here leaves the machine."""

import asyncio
import re
import ssl
import threading

import pytest

from unipic2_apps.errors import UsageError
from unipic2_apps.server import urls
from unipic2_apps.server.errors import ApiError
from unipic2_apps.server.urls import Fetcher, check_host, is_public

HOST, PUBLIC = "pictures.example", "93.184.216.34"


def reply(body=b"a picture", *headers, status=200):
    lines = [f"HTTP/1.1 {status} X", *(headers or (f"Content-Length: {len(body)}", "Content-Type: image/png; q=1"))]
    return "\r\n".join([*lines, "", ""]).encode() + body


def leading(to, status=302):
    return reply(b"", f"Location: {to}", "Content-Length: 0", status=status)


REPLIES = {
    "/picture.png": reply(),
    "/chunked": reply(b"5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    "/until-the-end": reply(b"x" * 10, "Server: y"),
    "/here": leading("/picture.png?a=b"),
    "/elsewhere": leading("https://other.example/picture.png", 301),
    "/plain": leading(f"http://{HOST}/picture.png", 307),
    "/inside": leading("https://127.0.0.1/", 308),
    "/nowhere": reply(b"", "Content-Length: 0", status=302),
    "/round": leading("/round"),
    "/missing": reply(b"", status=404),
    "/partial": reply(b"", status=206),
    "/announced": reply(b"", "Content-Length: 99999999999999"),
    "/large": reply(b"x" * 5000, "Server: y"),
    "/bomb": reply(b"2000\r\n" + b"x" * 0x2000 + b"\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    "/packed": reply(b"x", "Content-Encoding: gzip", "Content-Length: 1"),
    "/cut": reply(b"x", "Content-Length: 100"),
    "/headers": b"HTTP/1.1 200 X\r\n" + b"A: b\r\n" * 10_000,
    "/ssh": b"SSH-2.0-x\r\n",
    "/silent": b"",
}


@pytest.fixture(scope="module")
def host():
    """The port of a host, and the requests that came to it."""
    heard, ports, loop, started = [], [], asyncio.new_event_loop(), threading.Event()

    async def answer(reader, writer):
        first = await reader.read(1)
        if first != b"G":  # it speaks TLS
            writer.close()
            return
        request = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        heard.append(request)
        path = re.match(r"GET ([^ ?]*)", request)[1]
        if path == "/silent":
            await reader.read()
        writer.write(REPLIES[path])
        writer.close()

    async def main():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        started.set()

    def run():
        loop.run_until_complete(main())
        loop.run_forever()

    threading.Thread(target=run, daemon=True).start()
    started.wait()
    yield ports[0], heard
    loop.call_soon_threadsafe(loop.stop)


def fetcher(port, *, addresses=(PUBLIC,), tried=None, **options):
    """A fetcher to whom the host's name means given addresses, and an address of IPv4 the server above."""

    async def resolve(name):
        assert name == HOST
        return list(addresses)

    async def connect(address, name):
        assert name == HOST
        if tried is not None:
            tried.append(address)
        if ":" in address:
            raise OSError
        return await asyncio.open_connection("127.0.0.1", port)

    return Fetcher([HOST], resolve=resolve, connect=connect, **{"max_bytes": 4096, "seconds": 60, **options})


def fetch(this, path):
    url = path if ":" in path else f"https://{HOST}{path}"
    return asyncio.run(this.fetch(url, "image"))


def test_pictures_come_from_the_address_that_was_checked(host):
    tried = []
    this = fetcher(host[0], addresses=["2606:2800:220::1", PUBLIC], tried=tried)
    assert fetch(this, "/picture.png?size=1#place") == (b"a picture", "image/png")
    assert tried == ["2606:2800:220::1", PUBLIC]
    request = host[1][-1].lower()
    assert request.startswith("get /picture.png?size=1 http/1.1")
    assert f"host: {HOST}\r\n" in request
    assert fetch(this, f"HTTPS://{HOST.upper()}:443/chunked") == (b"hello", None)
    assert fetch(this, "/until-the-end") == (b"x" * 10, None)
    assert fetch(this, "/here") == (b"a picture", "image/png")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/elsewhere", "leads to another host|URLs of other.example are not opened here, only of pictures.example"),
        ("/plain", "https://HOST/PATH"),
        ("/inside", "URLs of 127.0.0.1 are not opened"),
        ("/nowhere", "leads on more than 3 times"),
        ("/round", "leads on more than 3 times"),
        ("/missing", "answers 404"),
        ("/partial", "answers 206"),
        ("/announced", "more than 4096 bytes"),
        ("/large", "more than 4096 bytes"),
        ("/bomb", "more than 4096 bytes"),
        ("/packed", "packs"),
        ("/cut", "can't be reached"),
        ("/headers", "can't be reached"),
        ("/ssh", "can't be reached"),
    ],
)
def test_what_hosts_answer_is_not_trusted(host, path, said):
    with pytest.raises(ApiError, match=said) as caught:
        fetch(fetcher(host[0]), path)
    assert (caught.value.status_code, caught.value.code, caught.value.param) == (400, "invalid_image", "image")


def test_redirects_stay_on_their_host(host):
    this = fetcher(host[0])
    this.hosts.add("other.example")
    with pytest.raises(ApiError, match="leads to another host"):
        fetch(this, "/elsewhere")


def test_a_host_that_says_nothing_is_left(host):
    with pytest.raises(ApiError, match=r"took more than 0.2 s"):
        fetch(fetcher(host[0], seconds=0.2), "/silent")


@pytest.mark.parametrize(
    "url",
    [
        f"http://{HOST}/picture.png",
        f"https://{HOST}:8443/picture.png",
        f"https://{HOST}:x/picture.png",
        f"https://me@{HOST}/picture.png",
        f"https://other.example@{HOST}/picture.png",
        f"https://{HOST}@other.example/picture.png",
        f"https://{HOST}.other.example/picture.png",
        f"https://sub.{HOST}/picture.png",
        f"https://{HOST}./picture.png",
        "https://127.0.0.1/picture.png",
        "https://[::1]/picture.png",
        "https://[::/picture.png",
        f"https://{HOST}/a b",
        f"https://{HOST}/a\r\nHost: inside",
        f"https://{HOST}/\u00e9",
        f"https://{HOST}/" + "x" * 2048,
        "https:///picture.png",
        f"ftp://{HOST}/picture.png",
        "file:///etc/passwd",
    ],
)
def test_other_urls_are_not_opened(url):
    async def never(*_):
        pytest.fail("it was looked up")

    with pytest.raises(ApiError, match="opened here"):
        fetch(Fetcher([HOST], max_bytes=10, resolve=never, connect=never), url)


@pytest.mark.parametrize("addresses", [["127.0.0.1"], [PUBLIC, "10.0.0.1"], ["::ffff:192.168.0.1"], []])
def test_names_of_private_addresses_are_refused(addresses):
    tried = []
    with pytest.raises(ApiError, match="has no public address"):
        fetch(fetcher(1, addresses=addresses, tried=tried), "/picture.png")
    assert tried == []


@pytest.mark.parametrize("address", [PUBLIC, "2606:2800:220:1::1", "::ffff:93.184.216.34"])
def test_addresses_of_the_internet(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.1.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001:0:1::1",
        "fc00::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "localhost",
    ],
)
def test_addresses_of_nearer_by(address):
    assert not is_public(address)


@pytest.mark.parametrize("name", ["", "https://host", "host/path", "host:443", "*.example", "a b", "-x", "x" * 64])
def test_hosts_are_names(name):
    with pytest.raises(UsageError, match="--allow-urls"):
        check_host(name)
    assert check_host(" Images.Example ") == "images.example"


def test_connections_are_to_hosts_with_a_certificate(host, monkeypatch):
    assert urls._trust().check_hostname
    assert urls._trust().verify_mode is ssl.CERT_REQUIRED
    monkeypatch.setattr(urls, "PORT", host[0])

    async def resolve(_name):
        return [PUBLIC]

    async def connect(_address, name):
        return await urls._connect("127.0.0.1", name)  # where no TLS is spoken

    this = Fetcher([HOST], max_bytes=10, resolve=resolve, connect=connect)
    with pytest.raises(ApiError, match="has no valid certificate"):
        fetch(this, "/picture.png")
    assert asyncio.run(urls._resolve("127.0.0.1")) == ["127.0.0.1"]


def test_requests_name_urls_where_they_are_allowed(metaquery, in_thread, serve, host, picture, as_file, monkeypatch):
    monkeypatch.setitem(REPLIES, "/real.png", reply(as_file(picture(1, 24, 16))))
    url, few = f"https://{HOST}/real.png", {"num_inference_steps": 1, "prompt": "x"}
    with serve([in_thread(metaquery)], fetcher=fetcher(host[0], max_bytes=10**6)) as server:

        def edited(**given):
            answer = server.http.post("/v1/images/edits", **given)
            return answer.status_code, answer.json().get("size") or answer.json()["error"]["code"]

        assert edited(json={**few, "images": [{"image_url": url}]}) == (200, "24x16")
        assert edited(data={**few, "image": url}, files={"n": (None, "1")}) == (200, "24x16")
        content = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": url}}]
        asked = {"model": "tiny", "max_tokens": 4, "messages": [{"role": "user", "content": content}]}
        answer = server.http.post("/v1/chat/completions", json=asked).json()
        expected = metaquery.ask(picture(1, 24, 16), "what is it?", max_new_tokens=4)
        assert answer["choices"][0]["message"]["content"] == expected
        heard = len(host[1])
        for other in (f"https://{HOST}/missing", "https://inside/x.png", "/etc/passwd"):
            assert edited(json={**few, "images": [{"image_url": other}]}) == (400, "invalid_image")
        assert edited(json={**few, "images": [{"image_url": url}] * 2}) == (400, "too_many_images")
        assert len(host[1]) == heard + 1  # only for what is missing
