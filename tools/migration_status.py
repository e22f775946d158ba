"""Says what became of every earlier promise, as MIGRATION.md has it, and checks that it is true.

    python -m tools.migration_status                       rows, and counts by section and state
    python -m tools.migration_status --check               runs the tests that the rows name, asks commands for --help
    python -m tools.migration_status --check --results X   the same with the JUnit file of a run that is over
    python -m tools.migration_status --write               writes the counts in MIGRATION.md anew

Exit codes: 0 all true, 1 something is not (each reason with file and line, on stderr), 2 nothing to read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

if __package__ in (None, ""):  # `python tools/migration_status.py` works from anywhere, too
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.migration import named
from tools.migration.document import COUNTS, STATES, Document, Problem, Row, check_counts, counts_table, parse
from tools.migration.evidence import NoResults, Results, read_results, run_tests

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 100  # of the words of a row


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    args = _arguments(argv)
    path = root / named.MIGRATION
    try:
        text = path.read_text(encoding="utf-8")
        document = parse(text)
        if args.write:
            path.write_text(COUNTS.sub(lambda _: counts_table(document), text), encoding="utf-8", newline="\n")
            return 0
        problems = list(check(text, document, root, args.results)) if args.check else []
    except (OSError, NoResults) as error:
        print(f"migration_status: {error}", file=sys.stderr)
        return 2
    print(json.dumps(as_json(document, problems if args.check else None), indent=2) if args.json else table(document))
    for problem in problems:
        print(problem, file=sys.stderr)
    if args.check and not args.json:
        print(f"{len(problems)} of it not true" if problems else "all of it true")
    return int(bool(problems))


def check(text: str, document: Document, root: Path, results: Path | None) -> Iterator[Problem]:
    """Everything that is not as the documents say, in the order of the lines. Raises NoResults."""
    tests = [test for row in document.rows for test in row.tests]
    evidence = read_results(results) if results else run_tests(root, tests)
    yield from document.problems
    yield from check_counts(text, document)
    for row in document.rows:
        yield from unshown(row, evidence, document.name)
    yield from named.problems(root)


def unshown(row: Row, evidence: Results, file: str) -> Iterator[Problem]:
    """The tests of a row that do not show what it says: missing, skipped or failing."""
    for test in row.tests:
        verdict = evidence.verdict(test)
        if verdict.outcome != "passed":
            detail = f": {verdict.detail}" if verdict.detail else ""
            yield Problem(file, row.line, f"{row.state}, but {test} is {verdict.outcome}{detail}")


def table(document: Document) -> str:
    """Rows by section, then the counts."""
    lines: list[str] = []
    for section in document.sections():
        rows = [row for row in document.rows if row.section == section]
        lines += [section, *(_line(row) for row in rows), ""]
    return "\n".join(lines) + "\n" + _counts(document)


def as_json(document: Document, problems: list[Problem] | None) -> dict[str, object]:
    """The same for machines; `problems` is null where nothing was checked."""
    sections = document.sections()
    return {
        "document": document.name,
        "counts": _by_state(sum(sections.values(), Counter())),
        "sections": {section: _by_state(counts) for section, counts in sections.items()},
        "rows": [row._asdict() for row in document.rows],
        "problems": None if problems is None else [problem._asdict() for problem in problems],
    }


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    about, _, details = (__doc__ or "").partition("\n\n")
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=about, epilog=details, formatter_class=layout)
    parser.add_argument("--check", action="store_true", help="exit 1 when something is not as the documents say")
    parser.add_argument("--json", action="store_true", help="rows, counts and problems as JSON")
    parser.add_argument("--results", type=Path, metavar="XML", help="JUnit file of a test run, instead of a run now")
    parser.add_argument("--write", action="store_true", help="write the counts in MIGRATION.md anew")
    args = parser.parse_args(argv)
    if args.results and not args.check:
        parser.error("--results goes with --check")
    return args


def _line(row: Row) -> str:
    words = row.earlier if len(row.earlier) <= WIDTH else row.earlier[: WIDTH - 3] + "..."
    return f"  {row.state:<8} {words}"


def _counts(document: Document) -> str:
    sections = document.sections()
    width = max(map(len, (*sections, "section")))
    lines = [f"{'section':<{width}}" + "".join(f"{state:>9}" for state in STATES) + f"{'rows':>9}"]
    for section, counts in (*sections.items(), ("all", sum(sections.values(), Counter()))):
        figures = "".join(f"{counts[state]:>9}" for state in STATES)
        lines.append(f"{section:<{width}}{figures}{counts.total():>9}")
    return "\n".join(lines)


def _by_state(counts: Counter[str]) -> dict[str, int]:
    return {state: counts[state] for state in STATES} | {"rows": counts.total()}


if __name__ == "__main__":
    sys.exit(main())
