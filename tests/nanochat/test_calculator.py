import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.calculator import use_calculator


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("1+2", "3"),
        ("2*(3+4)", "14"),
        ("10/4", "2.5"),
        ("1/5", "0.2"),
        ("6/3", "2.0"),
        ("7//2", "3"),
        ("-7//2", "-4"),
        ("1,000 + 2,000", "3000"),
        (" 1 + 1 ", "2"),
        ("-(2.5)", "-2.5"),
        ("--3", "3"),
        ("+3", "3"),
        (".5*4.", "2.0"),
        ("0.1+0.2", "0.30000000000000004"),
        ("'strawberry'.count('r')", "3"),
        ('"hello world".count("o")', "2"),
        ("('aXa').count('a')", "2"),
        ("'abc'.count('')", "4"),
        ("'AbA'.lower().count('a')", "2"),
        ("'aba'.upper().count('A')", "2"),
        ("'profile'.count('file')", "1"),
    ],
)
def test_valid_expressions_give_what_python_gives(expression, result):
    assert str(use_calculator(expression)) == result


@pytest.mark.parametrize(
    "expression",
    [
        "",
        " ",
        "1/0",
        "2**3",
        "9**9**9",
        "1+",
        "(1",
        "()",
        "...",
        "1 2",
        "(1)(2)",
        "007",
        "1_000",
        "1e5",
        "5%2",
        "2>1",
        "abc",
        "'a'",
        "'a'*3",
        "'a'.upper()",
        "'a'.count",
        "'a'.count()",
        "'a'.count('a' 1)",
        "'a'.count(1)",
        "'a'.index('a')",
        "f'{1}'.count('a')",
        "a.count('a')",
        "'a'.strip().count('a')",
        "__import__('os').count('a')",
        "open('x').read().count('a')",
        "[1,2].count(1)",
        "'a'.count('a')\n",
        "import os",
        "1\x00",
    ],
)
def test_anything_else_gives_none(expression):
    assert use_calculator(expression) is None


@pytest.mark.parametrize(
    "expression",
    [
        "9" * 1500,
        "*".join(["9" * 200] * 9),
        "1" * 5000,
        "(" * 900 + "1" + ")" * 900,
        "-" * 2000 + "1",
        "'" + "a" * 3000 + "'.count('a')",
        "9" * 400 + "*1.0",
        "9" * 400 + "/3.0",
    ],
)
def test_what_is_too_large_gives_none_at_once(expression):
    start = time.perf_counter()
    assert use_calculator(expression) is None
    assert time.perf_counter() - start < 1


def test_a_long_sum_is_no_deep_recursion():
    assert use_calculator("+".join(["1"] * 500)) == 500


NUMBERS = st.integers(0, 999).map(str) | st.floats(0, 99).map(lambda x: f"{x:.2f}")
EXPRESSIONS = st.recursive(
    NUMBERS,
    lambda inner: (
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", " - "]), inner).map("".join)
        | inner.map(lambda x: f"({x})")
        | inner.map(lambda x: f"-{x}")
    ),
    max_leaves=12,
)


@given(EXPRESSIONS)
def test_arithmetic_equals_pythons(expression):
    try:
        expected = eval(expression)
    except ZeroDivisionError:
        expected = None
    assert repr(use_calculator(expression)) == repr(expected)


@given(st.text(alphabet="0123456789*+-/.() '\"abcount_", max_size=40))
def test_no_text_raises(text):
    result = use_calculator(text)
    assert result is None or isinstance(result, (int, float))
