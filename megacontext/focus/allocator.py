"""FocusAllocator: from scores to edits, under the budget. A pure function of values; no tensors, no clock, no state.

History has four parts: the first blocks (always exact), the far part, the recent part (always exact), the tail. Only
the far part is up for choice. Its places go, in this order, to blocks whose score deserves detail (at most `far_blocks`
of them; when a prompt has just ended `prompt_blocks`, or `broad_blocks` where none stands out), then to blocks that are
in view anyway, newest first. What has no place is collapsed; complete groups of gists fold into their parent while
gists take more than `gist_budget`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from megacontext.config import MemoryConfig
from megacontext.context import Collapse, Edit, WorkingContext
from megacontext.errors import BudgetError
from megacontext.focus.detail import Detail, prompt_detail
from megacontext.span import Span


class Refusal(NamedTuple):
    """A block that was wanted and is not shown, or shown and not wanted, and why."""

    span: Span
    reason: str


class Plan(NamedTuple):
    """The edits in order, the context after them, what was refused, and the hold-ups the budget overruled."""

    edits: tuple[Edit, ...]
    context: WorkingContext
    refused: tuple[Refusal, ...] = ()
    forced: tuple[Span, ...] = ()


@dataclass(frozen=True)
class FocusAllocator:
    """The policy. Counts in blocks unless said; scores are in [-1, 1].

    protect_first: blocks at the start that stay exact. recent_tokens: so do the newest tokens. prompt_recent_tokens:
    so many of them when a prompt has ended, as far as there are places. far_blocks, prompt_blocks, broad_blocks: see
    above. expand_above: a score that deserves detail. hysteresis: what a block in view may score less than a newcomer
    and still stay while text flows. cooldown: ticks an edit stays untouched. max_edits: expansions of one steady tick.
    gist_budget: slots that gists may take. fill: whether unscored blocks in view may keep free places when a prompt
    has ended. sharpness: share of the best score that others need then, where a block stands out.
    """

    protect_first: int = 1
    recent_tokens: int = 480
    prompt_recent_tokens: int = 0
    far_blocks: int = 16
    prompt_blocks: int = 2
    broad_blocks: int = 0
    expand_above: float = 0.0
    hysteresis: float = 0.0
    cooldown: int = 0
    max_edits: int = 8
    gist_budget: int = 0
    fill: bool = False
    sharpness: float = 0.5

    @classmethod
    def of(cls, config: MemoryConfig) -> FocusAllocator:
        """The policy that a memory's settings describe."""
        return cls(
            protect_first=config.protect_first,
            recent_tokens=config.recent_tokens,
            prompt_recent_tokens=config.prompt_recent_tokens,
            far_blocks=config.far_blocks,
            prompt_blocks=config.prompt_blocks,
            broad_blocks=config.prompt_broad_blocks,
            expand_above=config.expand_above,
            hysteresis=config.hysteresis,
            cooldown=config.cooldown,
            max_edits=config.max_edits,
            gist_budget=config.gist_budget,
            fill=config.prompt_fill,
            sharpness=config.prompt_sharpness,
        )

    # --- the parts of history ---

    def first_end(self, context: WorkingContext) -> int:
        return self.protect_first * context.grid.block

    def recent_start(self, context: WorkingContext, sharp: bool = False) -> int:
        """Where the recent part begins: on the grid, so that all recent tokens are in it."""
        tokens = self._sharp_tokens(context) if sharp else self.recent_tokens
        start = (context.history - tokens) // context.grid.block * context.grid.block
        return max(start, self.first_end(context))

    def _sharp_tokens(self, context: WorkingContext) -> int:
        """Recent tokens when a prompt has ended: a longer recent part leaves room for what the prompt asks for."""
        others = (self._beside + self.prompt_blocks) * context.grid.block
        return max(self.recent_tokens, min(self.prompt_recent_tokens, context.budget - others))

    def prompt_places(self, budget: int, block: int) -> int:
        """Far blocks of `block` tokens that find room when a prompt has ended, beside the recent part it may have."""
        return (budget - max(self.recent_tokens, self.prompt_recent_tokens)) // block - self._beside

    @property
    def _beside(self) -> int:
        """Blocks beside far and recent ones: first ones, the open one, what is reserved, a block cut in two."""
        return self.protect_first + 3

    def far_pages(self, context: WorkingContext, sharp: bool = False) -> list[Span]:
        """The exact entries that are up for choice, oldest first."""
        low, high = self.first_end(context), self.recent_start(context, sharp)
        return [e for e in context.entries if e.level == 0 and low <= e.start and e.end <= high]

    def required(self, context: WorkingContext) -> int:
        """Slots that the least context takes: protected ends and the coarsest tiling of the rest."""
        work = context.apply([Collapse(context.grid.parent(page)) for page in self.far_pages(context)], 0)
        while (fold := self._oldest_fold(work)) is not None:
            work = work.apply([fold], 0)
        return work.slots

    # --- the plan ---

    def plan(
        self, context: WorkingContext, scores: Mapping[int, float], now: int, *, reserve: int = 0, sharp: bool = False
    ) -> Plan:
        """The next context, with at least `reserve` free slots. scores: by block number; a missing one is 0.

        sharp: a prompt has just ended; it makes no choice where all of history fits (L9). Raises BudgetError, with the
        number that would do, if the protected ends and the coarsest tiling do not fit.
        """
        sharp = sharp and context.history + reserve > context.budget
        pages = self.far_pages(context, sharp)
        places = self._places(context, pages, reserve)
        back = self._recent_gaps(context, sharp)[:places]
        places -= len(back)
        held = {p for p in self.far_pages(context) if self._held(context, p, now)}
        chosen, refused = self._choose(context, scores, now, places, sharp, held)
        keep = self._keep(pages, chosen, held, places, sharp)
        drop = [page for page in pages if page not in keep]
        edits: list[Edit] = [Collapse(context.grid.parent(page)) for page in drop]
        work = context.apply(edits, now)
        work, edits = self._fold(work, [e.span for e in edits], edits, now)
        in_view = set(pages)
        for page in [*back, *chosen]:
            if page in in_view:
                continue
            path = work.path(page)
            work, edits = work.apply(path, now), [*edits, *path]
        before = len(edits)
        work, edits = self._squeeze(work, edits, reserve, now, scores)
        work, edits = self._fold(work, [edit.span for edit in edits[before:]], edits, now)
        left = held.difference(work.entries)
        return Plan(tuple(edits), work, tuple(refused), tuple(sorted(left)))

    def _places(self, context: WorkingContext, pages: list[Span], reserve: int) -> int:
        block = context.grid.block
        fixed = context.slots - block * len(pages)
        if fixed + reserve > context.budget:
            self._check_least(context, reserve)  # gists may still fold
        return max(context.budget - reserve - fixed, 0) // block

    def _check_least(self, context: WorkingContext, reserve: int) -> None:
        least = self.required(context)
        if least + reserve > context.budget:
            raise BudgetError(
                f"a budget of {context.budget} slots cannot hold the protected ends and the coarsest tiling, {least} "
                f"slots, and {reserve} for the next tokens; set memory.budget to {least + reserve} or more"
            )

    def _recent_gaps(self, context: WorkingContext, sharp: bool) -> list[Span]:
        """Blocks of a prompt's longer recent part that left the view while text flowed, newest first."""
        block = context.grid.block
        numbers = range(self.recent_start(context, sharp) // block, self.recent_start(context) // block)
        return [context.grid.page(n) for n in reversed(numbers) if context.covering(n * block).level]

    def _held(self, context: WorkingContext, page: Span, now: int) -> bool:
        return self.cooldown > 0 and now - context.since[context.index(page.start)] < self.cooldown

    def _choose(
        self,
        context: WorkingContext,
        scores: Mapping[int, float],
        now: int,
        places: int,
        sharp: bool,
        held: set[Span],
    ) -> tuple[list[Span], list[Refusal]]:
        """The scored far blocks that get a place, best first. While text flows, none takes the place of a held one."""
        low, high = self.first_end(context), self.recent_start(context, sharp)
        block = context.grid.block
        detail = self._detail(context, scores, sharp)
        ranked = []
        for number, score in scores.items():
            if score > detail.above and score >= detail.least and low <= number * block < high:
                entry = context.covering(number * block)
                bonus = self.hysteresis if entry.level == 0 and not sharp else 0.0
                ranked.append((score + bonus, number, entry))
        ranked.sort(reverse=True)
        most = min(detail.most, places)
        chosen: list[Span] = []
        refused: list[Refusal] = []
        newcomers = 0
        for _, number, entry in ranked:
            page = context.grid.page(number)
            if len(chosen) >= most:
                refused.append(Refusal(page, "no place"))
                break
            if entry.level and not sharp and newcomers >= self.max_edits:
                refused.append(Refusal(page, "max_edits"))
            elif entry.level and not sharp and self._held(context, page, now):
                refused.append(Refusal(page, "cooldown"))
            elif entry.level and not sharp and len(held.union(chosen)) >= places:
                refused.append(Refusal(page, "no place"))
            else:
                newcomers += entry.level > 0
                chosen.append(page)
        return chosen, refused

    def _detail(self, context: WorkingContext, scores: Mapping[int, float], sharp: bool) -> Detail:
        """What deserves detail. At a prompt's end far pages must measure up to the best of all, which may be recent."""
        if not sharp:
            return Detail(self.far_blocks, self.expand_above)
        known = [score for number, score in scores.items() if number * context.grid.block < context.sealed]
        few = Detail(self.prompt_blocks, self.expand_above)
        return prompt_detail(known, few, self.broad_blocks, self.sharpness)

    def _keep(self, pages: list[Span], chosen: list[Span], held: set[Span], places: int, sharp: bool) -> set[Span]:
        """The far pages that stay: those on hold and the chosen ones (first when a prompt ends), then the newest."""
        if sharp and not self.fill:
            return set(chosen)
        newest = sorted(pages, key=lambda p: p.start, reverse=True)
        hold = [page for page in newest if page in held]
        order = [*chosen, *hold, *newest] if sharp else [*hold, *chosen, *newest]
        return set(list(dict.fromkeys(order))[:places])

    def _fold(
        self, work: WorkingContext, collapsed: list[Span], edits: list[Edit], now: int
    ) -> tuple[WorkingContext, list[Edit]]:
        """Where gists cost nothing: fold complete groups around what has just collapsed or become far."""
        queue = list(collapsed)
        boundary = self.recent_start(work) - 1
        if 0 <= boundary < work.sealed and work.covering(boundary).level:
            queue.append(work.covering(boundary))
        while queue:
            child = queue.pop()
            if child.level >= work.levels or work.costs[child.level]:
                continue
            parent = work.grid.parent(child)
            if parent.end <= self.recent_start(work) and work.foldable(parent):
                edits = [*edits, Collapse(parent)]
                work = work.apply(edits[-1:], now)
                queue.append(parent)
        return work, edits

    def _squeeze(
        self, work: WorkingContext, edits: list[Edit], reserve: int, now: int, scores: Mapping[int, float]
    ) -> tuple[WorkingContext, list[Edit]]:
        """Fold the oldest groups of gists while these are over their budget, or the whole is over its own."""
        edits = list(edits)
        while self._gist_slots(work) > self.gist_budget or work.free < reserve:
            edit = self._oldest_fold(work) or self._least_page(work, scores)
            if edit is None:
                self._check_least(work, reserve)
                break
            if edit.span.level == 1 and work.free >= reserve:
                break  # only over the gists' own budget, and no group left to fold
            edits.append(edit)
            work = work.apply([edit], now)
        return work, edits

    def _gist_slots(self, work: WorkingContext) -> int:
        if not any(work.costs[1:]):
            return 0
        return sum(work.costs[e.level] for e in work.entries if e.level)

    def _oldest_fold(self, work: WorkingContext) -> Collapse | None:
        """The oldest, finest complete group of gists."""
        for level in range(2, work.levels + 1):
            seen = None
            for entry in work.entries:
                if entry.level != level - 1:
                    continue
                parent = work.grid.parent(entry)
                if parent != seen and parent.end <= self.recent_start(work) and work.foldable(parent):
                    return Collapse(parent)
                seen = parent
        return None

    def _least_page(self, work: WorkingContext, scores: Mapping[int, float]) -> Collapse | None:
        """The far page that matters least, the oldest of several."""
        pages = self.far_pages(work)
        least = min(pages, key=lambda page: scores.get(page.start // work.grid.block, 0.0), default=None)
        return None if least is None else Collapse(work.grid.parent(least))
