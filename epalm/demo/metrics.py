"""Counters of the service in Prometheus' format, served under /metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120)


class Metrics:
    """What is counted; each service has its own registry, so that tests can run several in one process.

    Args:
        running: gives the number of requests on their way.
        loaded: gives the number of models in memory.
    """

    def __init__(self, running: Callable[[], float], loaded: Callable[[], float]):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "epalm_requests",
            "Requests by endpoint and outcome: ok, stopped or the code of an error",
            ["endpoint", "outcome"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "epalm_request_seconds",
            "Seconds from request to final text, waiting included",
            ["endpoint"],
            buckets=SECONDS,
            registry=self.registry,
        )
        Gauge("epalm_running", "Requests on their way", registry=self.registry).set_function(running)
        Gauge("epalm_models_loaded", "Models in memory", registry=self.registry).set_function(loaded)
        self.purged = Counter("epalm_files_deleted", "Uploaded files deleted", registry=self.registry)

    def page(self) -> bytes:
        """All of them, as text."""
        return generate_latest(self.registry)
