"""The whole report in order, as sections: how to read it, then each setting, then speed."""

from __future__ import annotations

from collections.abc import Sequence

from megacontext.evaluation.comparison.rows import Row
from megacontext.evaluation.reporting.blocks import Block, Picture, Section
from megacontext.evaluation.reporting.gaps import gaps
from megacontext.evaluation.reporting.one_task import LESS, task_section
from megacontext.evaluation.reporting.overview import best, losses, methods, summary
from megacontext.evaluation.reporting.speeds import speed
from megacontext.evaluation.reporting.study import Part

TITLE = "What each memory keeps"
HOW_TO_READ = (
    "Every memory runs on the same model, texts and seeds. A budget is the most slots that a row of the model may "
    "read; `full` has none. Intervals are 95 %, from a bootstrap over seeds and items.",
    "**Bold**: the best at its budget, and those whose paired interval against the best (`less the best`) holds 0. "
    "`full` and the oracles are ceilings and do not compete; neither do methods with changes in brackets, which show "
    "what a part is worth, nor rows with fewer seeds than the others (`*`).",
    "`slots` are resident, `read` those of one step, both at most; `MB` is all of the memory, padding, metadata, "
    "gists and indexes included, at most; `GFLOP to choose` is what an episode spent on choosing what is seen. ΔNLL "
    f"is nats a token above `full` on the same text, {LESS} a part where it is below, beyond its interval.",
)

Pictures = dict[str, list[Picture]]  # by the heading that they belong to


def sections_of(parts: Sequence[Part], timed: Sequence[Row], pictures: Pictures, notes: Sequence[str]) -> list[Section]:
    """notes: what was left out while reading."""
    reading: list[Block] = [*HOW_TO_READ, *(f"{note}." for note in notes)]
    found = [Section("How to read it", "reading", 2, reading)]
    for part in parts:
        found += _of_part(part, pictures)
    if timed:
        section = speed(timed)
        section.blocks[:0] = pictures.get("speed", [])
        found.append(section)
    return found


def _of_part(part: Part, pictures: Pictures) -> list[Section]:
    heading = part.setting.heading
    first = Section(heading, "setting", 2, [*pictures.get(heading, [])])
    tasks = Section("Task by task", "tasks", 3, [])
    tables = (best, summary, losses, gaps, methods)
    return [first, *(make(part) for make in tables), tasks, *map(task_section, part.tasks)]
