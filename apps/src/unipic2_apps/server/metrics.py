"""What Prometheus reads at ``/metrics``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from unipic2_apps.engine.pool import Pool

__all__ = ["Counted", "Metrics"]

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        given: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("unipic2_requests", "Requests", ["route", "status"], **given)
        self.seconds = Histogram("unipic2_request_seconds", "Time of requests", ["route"], buckets=SECONDS, **given)
        self.pictures = Counter("unipic2_pictures", "Pictures made", **given)
        self.answers = Counter("unipic2_answers", "Questions answered", **given)
        self.gone = Counter("unipic2_clients_gone", "Clients that left before their answer", **given)
        self.step_seconds = Histogram("unipic2_step_seconds", "Time of denoising steps", buckets=STEP_SECONDS, **given)
        self.step_rows = Histogram("unipic2_step_rows", "Pictures in a denoising step", buckets=ROWS, **given)

    def on_step(self, rows: int, seconds: float) -> None:
        """Count a denoising step."""
        self.step_rows.observe(rows)
        self.step_seconds.observe(seconds)

    def watch(self, pool: Pool) -> None:
        """Tell how a pool is doing, too."""
        self.registry.register(_PoolState(pool))

    def text(self) -> bytes:
        """Return all in Prometheus' format."""
        return generate_latest(self.registry)


class _PoolState:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def collect(self) -> Iterator[Metric]:
        """Yield the state at this moment."""
        yield GaugeMetricFamily("unipic2_queue_rows", "Pictures and questions that wait or run", self.pool.rows)
        yield GaugeMetricFamily("unipic2_engines_ready", "Engines that work", self.pool.ready)
        yield CounterMetricFamily("unipic2_engine_restarts", "Engines started again", self.pool.restarts)


class Counted:
    """Middleware that counts requests by route and status.

    Args:
        app: What it stands in front of.
        metrics: Where they are counted.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and count it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            # The route's own path: what strangers put into a URL must not become a name here.
            route = getattr(scope.get("route"), "path", "unknown")
            self.metrics.requests.labels(route, str(status or 499)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - start)
