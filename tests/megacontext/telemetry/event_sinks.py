"""Sinks for tests, and events to send them."""

from __future__ import annotations

from megacontext.telemetry.events import Event, Tick, Turn


class ListSink:
    """Remembers what came."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = False

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.closed = True


class BrokenSink(ListSink):
    """Takes one event, then breaks."""

    def emit(self, event: Event) -> None:
        if self.events:
            raise RuntimeError("broken")
        super().emit(event)

    def close(self) -> None:
        super().close()
        raise RuntimeError("broken")


def full_tick(index: int = 9, **changes: object) -> Tick:
    """A tick with every figure that a memory can know."""
    values: dict = {
        "tick": index,
        "reason": "text",
        "history_tokens": 131072,
        "working_budget": 1024,
        "active_slots": 1020,
        "utilization": 0.9961,
        "swap_rate": 0.0312,
        "residency": 0.9706,
        "mean_residency_ticks": 12.51,
        "num_expand": 2,
        "num_collapse": 3,
        "refused": 1,
        "faults": 0,
        "recomputed_blocks": 0,
        "lod_counts": {0: 30, 1: 4096, 2: 96},
        "delta_nll": 0.0213,
        "delta_nll_baseline": "exact",
        "delta_nll_ms": 141.2,
        "latency_ms": {"score": 0.2, "plan": 0.1, "page": 0.3, "assemble": 0.25, "forward": 15.0, "total": 15.85},
        "baseline_ms": 15.012,
        "resident_bytes": 1 << 30,
        "disk_bytes": 1 << 20,
        "pages_moved": 5,
        "bytes_moved": 1 << 22,
    }
    return Tick(**values | changes)


def turn(number: int = 1, **changes: object) -> Turn:
    values: dict = {"turn": number, "prompt_tokens": 4, "generated_tokens": 2, "history_tokens": 6, "stop": "stop"}
    return Turn(**values | changes)
