"""What is asked of a plan: how many sequences, how long, how fast, in which precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shardlab.theory.precision import KVPrecision, Precision, kv_precision, precision

MOST_TOKENS = 1 << 30  # of a prompt or an answer; beyond is a slip of the keyboard
MOST_SEQUENCES = 1 << 20


@dataclass(frozen=True)
class Workload:
    """Sequences of `input_tokens` in and `output_tokens` out.

    concurrency: sequences in flight over all replicas; None lets each plan take as many as fit and meet slo_tpot_s.
    arrival "steady": an engine that batches continuously. A sequence that ends makes room for the next prompt, so
    decode steps and the prefills of new prompts take turns. "together": `concurrency` prompts arrive at once, each
    replica prefills its share in one go and decodes it to the end.
    stored and kv are names of theory.precision. Raises ValueError for what makes no workload.
    """

    input_tokens: int
    output_tokens: int
    concurrency: int | None = None
    slo_ttft_s: float | None = None
    slo_tpot_s: float | None = None
    stored: str = "bf16"
    kv: str = "bf16"
    arrival: Literal["steady", "together"] = "steady"

    def __post_init__(self) -> None:
        _check_count("input_tokens", self.input_tokens, 1, MOST_TOKENS)
        _check_count("output_tokens", self.output_tokens, 2, MOST_TOKENS)  # TPOT is the time between two
        if self.concurrency is not None:
            _check_count("concurrency", self.concurrency, 1, MOST_SEQUENCES)
        elif self.arrival == "together":
            raise ValueError("concurrency=None: sequences that arrive together have a number")
        if self.arrival not in ("steady", "together"):
            raise ValueError(f"arrival={self.arrival!r}; allowed: 'steady', 'together'")
        for name in ("slo_ttft_s", "slo_tpot_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name}={value}; allowed: above 0 seconds, or None")
        precision(self.stored)  # both name what is allowed
        kv_precision(self.kv)

    @property
    def weights(self) -> Precision:
        """How the weights are stored."""
        return precision(self.stored)

    @property
    def cache(self) -> KVPrecision:
        """How the KV cache is stored."""
        return kv_precision(self.kv)

    @property
    def context(self) -> int:
        """Tokens of a sequence at its end: what room for one sequence means."""
        return self.input_tokens + self.output_tokens

    @property
    def mean_past(self) -> int:
        """Tokens in the cache at an average decode step: the prompt and half the answer."""
        return self.input_tokens + self.output_tokens // 2


def _check_count(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name}={value!r}; allowed: an integer of {least}..{most}")
