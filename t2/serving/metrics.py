"""What Prometheus reads at /metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        """All at 0, in a registry of their own."""
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "t2_requests", "Requests that were answered", ["endpoint", "model", "status"], registry=self.registry
        )
        self.prompt_tokens = Counter("t2_prompt_tokens", "Tokens of accepted prompts", registry=self.registry)
        self.completion_tokens = Counter("t2_completion_tokens", "Tokens that were generated", registry=self.registry)
        self.hung_up = Counter("t2_hung_up", "Requests whose client left before the end", registry=self.registry)
        self.waiting = Gauge("t2_waiting_requests", "Requests that wait for a place", registry=self.registry)
        self.rows = Gauge("t2_running_samples", "Samples that are being decoded", registry=self.registry)
        self.first_token_s = self._seconds("first_token", "From the request to its first token")
        self.pass1_s = self._seconds("pass1", "Of a first pass, over all requests of its batch")
        self.pass2_s = self._seconds("pass2", "From the reading of the prompt to the end of the answer")

    def _seconds(self, name: str, about: str) -> Histogram:
        return Histogram(f"t2_{name}_seconds", about, buckets=SECONDS, registry=self.registry)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
