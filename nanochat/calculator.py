"""The calculator tool: arithmetic, and how often one string occurs in another.

An expression is parsed, never evaluated as code. Its length and the size of every intermediate result are bounded, so
it needs no time limit. What upstream's calculator accepts gives the same number here; anything else gives None.
"""

from __future__ import annotations

import ast
import operator
import string
from collections.abc import Callable, Mapping

MAX_CHARACTERS = 2048
MAX_BITS = 4096  # of an integer, about 1,200 decimal digits
ARITHMETIC = frozenset("0123456789*+-/.() ")
TEXT = frozenset(string.ascii_letters + string.digits + "'\"()._ ")

Number = int | float
OPERATORS: Mapping[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
SIGNS: Mapping[type[ast.unaryop], Callable[[Number], Number]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def use_calculator(expr: str) -> Number | None:
    """'2*(3+4)' -> 14, "'strawberry'.count('r')" -> 3. Commas are dropped first. None for anything it cannot do."""
    expr = expr.replace(",", "")
    if not expr or len(expr) > MAX_CHARACTERS:
        return None
    try:
        if set(expr) <= ARITHMETIC:
            return _number(_parse(expr))
        if set(expr) <= TEXT:
            return _count(_parse(expr))
    except (ValueError, SyntaxError, ArithmeticError, RecursionError, MemoryError):
        return None
    return None


def _parse(expr: str) -> ast.expr:
    return ast.parse(expr.strip(), mode="eval").body


def _number(node: ast.expr) -> Number:
    """Numbers, + - * / //, signs. Walks down the left side in a loop: a long sum is no deep recursion."""
    pending: list[ast.BinOp] = []
    while isinstance(node, ast.BinOp):
        pending.append(node)
        node = node.left
    value = _operand(node)
    for step in reversed(pending):
        if type(step.op) not in OPERATORS:
            raise ValueError("no such operator")
        value = _bounded(OPERATORS[type(step.op)](value, _number(step.right)))
    return value


def _operand(node: ast.expr) -> Number:
    if isinstance(node, ast.UnaryOp) and type(node.op) in SIGNS:
        return SIGNS[type(node.op)](_number(node.operand))
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _bounded(node.value)  # type: ignore[arg-type]
    raise ValueError("not a number")


def _bounded(value: Number) -> Number:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ValueError("too large")
    return value


def _count(node: ast.expr) -> int:
    """text.count(text)"""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "count"):
        raise ValueError("not a count")
    if len(node.args) != 1 or node.keywords:
        raise ValueError("count takes one string")
    return _text(node.func.value).count(_text(node.args[0]))


def _text(node: ast.expr) -> str:
    """A string, or one in lower or upper case by .lower() or .upper()."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not (node.args or node.keywords):
        if node.func.attr == "lower":
            return _text(node.func.value).lower()
        if node.func.attr == "upper":
            return _text(node.func.value).upper()
    raise ValueError("not a string")
