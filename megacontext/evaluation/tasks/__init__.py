"""The tasks by name; `make_task` is the factory. Values alone: no torch is needed to build an episode's steps.

base.py     what a task is, and the text they are made from
recall.py   codes in running text             chat.py, chat_facts.py   facts in a conversation
text.py     loss on running text
"""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches

from megacontext.errors import ConfigError
from megacontext.evaluation.tasks.base import Task
from megacontext.evaluation.tasks.chat import ChatRecall
from megacontext.evaluation.tasks.recall import LateRecall
from megacontext.evaluation.tasks.text import CopyAtDistance, PlainText

_ALL: tuple[Task, ...] = (
    LateRecall(),
    LateRecall(name="late_recall_chained", stay=True),
    LateRecall(name="late_recall_long", tokens=24_000, facts=40),
    CopyAtDistance(),
    ChatRecall(),
    PlainText(),
)
TASKS = {task.name: task for task in _ALL}


def check_name(kind: str, name: str, there: list[str]) -> str:
    """`name`, if it is one of those `there` are. Raises ConfigError with the nearest one."""
    if name in there:
        return name
    near = get_close_matches(name, there, n=1, cutoff=0.5)
    guess = f" Did you mean {near[0]}?" if near else ""
    raise ConfigError(f"no {kind} {name!r}.{guess} There are {', '.join(there)}.")


def make_task(name: str, *, tokens: int | None = None, private: str = "") -> Task:
    """The task called `name`, with another length of history if `tokens` says so. Raises ConfigError for a bad name.

    private: mixed into every draw; see Task.
    """
    task = replace(TASKS[check_name("task", name, list(TASKS))], private=private)
    return task if tokens is None else replace(task, tokens=tokens)
