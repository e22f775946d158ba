"""The calculator inside a reply, as a state machine over tokens.

A model writes <|python_start|> expression <|python_end|>; the result is forced into its reply, as <|output_start|>
result <|output_end|>. A row is done at <|assistant_end|> or at the next <|bos|>.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from nanochat.calculator import use_calculator


class RowState:
    """One sample on its way: what it holds, and what will be forced into it next."""

    def __init__(self, current_tokens: Sequence[int] | None = None) -> None:
        self.current_tokens: list[int] = list(current_tokens or [])
        self.forced_tokens: deque[int] = deque()
        self.in_python_block = False
        self.python_expr_tokens: list[int] = []
        self.completed = False


class ToolUse:
    """The special ids and the transitions. `tokenizer` needs encode_special, get_bos_token_id, encode and decode."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.python_start, self.python_end, self.output_start, self.output_end, assistant_end = (
            tokenizer.encode_special(f"<|{name}|>")
            for name in ("python_start", "python_end", "output_start", "output_end", "assistant_end")
        )
        self.terminal = frozenset((assistant_end, tokenizer.get_bos_token_id()))

    def step(self, row: RowState, sampled: int) -> tuple[int, int]:
        """Take the forced id if one waits, else the sampled one. Returns (id, mask): mask 1 sampled, 0 forced."""
        mask = 0 if row.forced_tokens else 1
        token = row.forced_tokens.popleft() if row.forced_tokens else sampled
        row.current_tokens.append(token)
        self._advance(row, token)
        return token, mask

    def _advance(self, row: RowState, token: int) -> None:
        if token in self.terminal:
            row.completed = True
        if token == self.python_start:
            row.in_python_block, row.python_expr_tokens = True, []
        elif token == self.python_end and row.in_python_block:
            row.in_python_block = False
            self._calculate(row)
            row.python_expr_tokens = []
        elif row.in_python_block:
            row.python_expr_tokens.append(token)

    def _calculate(self, row: RowState) -> None:
        if not row.python_expr_tokens:
            return
        result = use_calculator(self.tokenizer.decode(row.python_expr_tokens))
        if result is not None:
            row.forced_tokens.extend([self.output_start, *self.tokenizer.encode(str(result)), self.output_end])
