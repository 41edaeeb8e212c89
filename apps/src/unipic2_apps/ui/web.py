"""The page as a web application: who may open it, and what a browser may load for it."""

from __future__ import annotations

import secrets
from http.cookies import SimpleCookie
from pathlib import Path

import gradio as gr
from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unipic2_apps.ui.page import build
from unipic2_apps.ui.tab import BROWSER_COOKIE, Context

__all__ = ["create_page", "is_local"]

LOCAL = ["127.0.0.1", "localhost", "[::1]"]
MOST_UPLOAD = "64mb"
# Nothing from elsewhere is ever loaded or asked; Gradio's own scripts need to be inline.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)


def create_page(context: Context, host: str) -> FastAPI:
    """Return the page's application.

    Args:
        context: The server, and where pictures and the history are kept.
        host: Where it will listen. Of a local page, other names are refused: a web site could point its own name here.
    """
    app = FastAPI(openapi_url=None)
    if is_local(host):
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL)
    app.add_middleware(Browsers)
    return gr.mount_gradio_app(
        app,
        build(context),
        path="/",
        allowed_paths=[str(context.shelf.folder)],
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        max_file_size=MOST_UPLOAD,
        theme=_theme(),
        css_paths=[Path(__file__).with_name("page.css")],
    )


def is_local(host: str) -> bool:
    """Tell whether an address is of this machine alone."""
    return host in {"127.0.0.1", "localhost", "::1"}


class Browsers:
    """Middleware that knows a browser again, and tells it to load nothing from elsewhere.

    Args:
        app: What it stands in front of.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and add headers to its answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_known = BROWSER_COOKIE in SimpleCookie(Headers(scope=scope).get("cookie", ""))

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                headers["Referrer-Policy"] = "no-referrer"
                if scope["path"] == "/" and not is_known:
                    cookie = f"{BROWSER_COOKIE}={secrets.token_urlsafe(24)}; Path=/; HttpOnly; SameSite=Strict"
                    headers.append("Set-Cookie", f"{cookie}; Max-Age=31536000")
            await send(message)

        await self.app(scope, receive, with_headers)


def _theme() -> gr.themes.Base:
    """Return the theme; its fonts are those of the machine, since nothing is fetched."""
    theme = gr.themes.Default(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        radius_size="lg",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    # Darker than by default: white words on the button, and grey ones on the page, are to be read.
    return theme.set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_text_color="white",
        body_text_color_subdued="*neutral_600",
        block_info_text_color="*neutral_600",
        input_placeholder_color="*neutral_500",
        color_accent="*primary_700",
        color_accent_soft="*primary_100",
    )
