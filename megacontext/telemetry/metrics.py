"""The one table of metrics: name, meaning, unit, what is healthy, what to look into.

Events, the meter line, /stats, evaluation rows, W&B and the docs (docs/metrics.md is made from it) use these names and
no others. A value that was not computed is absent, never zero. Folding sums up what several ticks come to: see `Fold`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Fold = Literal["sum", "mean", "sample", "last"]
"""What consecutive ticks come to. sum: counts added. mean: over the ticks. sample: over the few ticks that measured it.
last: the newest known. Times are means, part by part: means of parts add up to the mean of the total, percentiles do
not; a tick event that is a sum has the 95th percentile of each part beside them.
"""


class Band(NamedTuple):
    """An interval, both ends included; None: open on that side."""

    low: float | None = None
    high: float | None = None

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, (int, float)):
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        if self.low is None:
            return f"<= {self.high:g}" if self.high is not None else ""
        return f">= {self.low:g}" if self.high is None else f"{self.low:g} to {self.high:g}"

    @property
    def outside(self) -> str:
        """The values that are not in it; a share is never below 0, so that is not said."""
        below = f"< {self.low:g}" if self.low else ""
        above = "" if self.high is None else f"> {self.high:g}"
        return " or ".join(filter(None, (below, above)))


class Metric(NamedTuple):
    """One row. fold: how consecutive ticks are summed up. healthy: None where no band is known.

    investigate: values outside it are worth a look; between the two bands lies what is tolerable.
    """

    name: str
    meaning: str
    unit: str
    fold: Fold = "last"
    healthy: Band | None = None
    tolerable: Band | None = None

    def judge(self, value: float) -> Literal["healthy", "tolerable", "investigate", "unknown"]:
        """What the bands say of a value."""
        if self.healthy is None or self.tolerable is None:
            return "unknown"
        return "healthy" if value in self.healthy else "tolerable" if value in self.tolerable else "investigate"


_TABLE = (
    # a turn
    Metric("prompt_tokens", "tokens of this turn's prompt", "tokens", "sum"),
    Metric("generated_tokens", "tokens of this turn's reply", "tokens", "sum"),
    Metric("history_tokens", "all tokens in the log", "tokens"),
    Metric("ttft_ms", "time to the first token; flat in history but for reading the prompt", "ms"),
    Metric("tokens_per_second", "decode speed; flat in history", "tokens/s"),
    Metric("itl_p50_ms", "gap between tokens, median; flat in history", "ms"),
    Metric("itl_p95_ms", "gap between tokens, 95th percentile; flat in history", "ms"),
    # the view
    Metric("working_budget", "most slots in view", "slots"),
    Metric("active_slots", "slots in view", "slots"),
    Metric(
        "utilization",
        "active_slots / working_budget; judged once history exceeds the budget, above 1 is a defect",
        "share",
        "mean",
        Band(0.8, 1.0),
        Band(0.6, 1.0),
    ),
    Metric(
        "swap_rate",
        "expansions and collapses of this tick / sealed entries in view; above .5 is thrash",
        "share",
        "mean",
        Band(0, 0.25),
        Band(0, 0.5),
    ),
    Metric(
        "residency", "slots there at the same level a tick ago / slots", "share", "mean", Band(0.9, 1), Band(0.8, 1)
    ),
    Metric("mean_residency_ticks", "mean ticks that the entries have been in view", "ticks", "mean", Band(3), Band(3)),
    Metric("num_expand", "expansions this tick", "count", "sum"),
    Metric("num_collapse", "collapses this tick", "count", "sum"),
    Metric("refused", "edits that the allocator refused this tick", "count", "sum"),
    Metric("faults", "pages that were wanted and not resident this tick", "count", "sum"),
    Metric("recomputed_blocks", "blocks run through the model again this tick", "count", "sum"),
    Metric("lod_counts", "entries in view per level", "count"),
    Metric("transient", "starts of blocks that changed and changed back within a sum of ticks", "tokens"),
    # quality
    Metric(
        "delta_nll",
        "loss of the last tokens under this view minus under the reference",
        "nats/token",
        "sample",
        Band(None, 0.1),
        Band(None, 0.15),
    ),
    Metric("delta_nll_baseline", "the reference of delta_nll: full or exact", "name"),
    Metric("delta_nll_ms", "what measuring delta_nll took; no part of latency_ms", "ms", "sum"),
    Metric("gist_cosine", "cosine between a gist and what it stands for", "cosine", "mean"),
    Metric("lens_corr", "rank correlation of scores with counterfactual utility", "correlation", "mean"),
    Metric("oracle_share", "utility reached / utility of the best plan", "share", "mean"),
    Metric("speculative_acceptance", "drafted tokens that were accepted", "share", "mean"),
    # cost
    Metric(
        "latency_ms",
        "wall time of a tick by part: score, plan, page, assemble, forward, and total, which is their sum "
        "(total: healthy up to 1.10 x baseline_ms, investigate above 1.5 x)",
        "ms",
        "mean",
    ),
    Metric("baseline_ms", "the same forward with the plain cache at the same slots", "ms", "sample"),
    Metric("resident_bytes", "memory in use, padding and indexes included; flat in history", "bytes"),
    Metric("disk_bytes", "disk in use", "bytes"),
    Metric("pages_moved", "pages copied this tick", "count", "sum"),
    Metric("bytes_moved", "bytes copied this tick", "bytes", "sum"),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}


def as_markdown() -> str:
    """The table as the docs show it."""
    rows = ["| name | meaning | unit | summed up as | healthy | investigate |", "|---|---|---|---|---|---|"]
    for metric in _TABLE:
        healthy = "" if metric.healthy is None else str(metric.healthy)
        outside = "" if metric.tolerable is None else metric.tolerable.outside
        rows.append(f"| {metric.name} | {metric.meaning} | {metric.unit} | {metric.fold} | {healthy} | {outside} |")
    return "\n".join(rows) + "\n"
