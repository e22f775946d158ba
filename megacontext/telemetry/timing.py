"""Times of a reply and of ticks, as the metrics table names them."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest-rank percentile of a non-empty sequence; share in (0, 1]."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


class ReplyTimer:
    """Stopwatch of one reply: `tick` at each token. start: `perf_counter` when the turn began."""

    def __init__(self, start: float) -> None:
        self.start = start
        self._at: list[float] = []

    def tick(self) -> None:
        self._at.append(perf_counter())

    def figures(self) -> dict[str, float]:
        """ttft_ms, tokens_per_second, itl_p50_ms, itl_p95_ms; what was not measured is absent."""
        if not self._at:
            return {}
        found = {"ttft_ms": round((self._at[0] - self.start) * 1000, 3)}
        gaps = [later - earlier for earlier, later in zip(self._at, self._at[1:], strict=False)]
        if gaps and sum(gaps) > 0:
            found["tokens_per_second"] = round(len(gaps) / sum(gaps), 2)
            found["itl_p50_ms"] = round(percentile(gaps, 0.5) * 1000, 3)
            found["itl_p95_ms"] = round(percentile(gaps, 0.95) * 1000, 3)
        return found
