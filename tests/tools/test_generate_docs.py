from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from megacontext.telemetry.events import EVENT_TYPES
from megacontext.telemetry.metrics import METRICS
from tools.generate_docs import DOCUMENTS, ROOT, main


def test_the_documents_are_what_the_code_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_a_document_that_drifted_is_found_and_written_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"], tmp_path) == 1
    assert not list(tmp_path.iterdir())
    assert main([], tmp_path) == 0
    page = tmp_path / "docs" / "metrics.md"
    page.write_text(page.read_text(encoding="utf-8").replace("swap_rate", "swaps"), encoding="utf-8")
    capsys.readouterr()
    assert main(["--check"], tmp_path) == 1
    assert capsys.readouterr().err.startswith("docs/metrics.md is not what the code says")
    assert main([], tmp_path) == 0
    assert main(["--check"], tmp_path) == 0


def test_every_metric_and_every_type_of_event_is_documented() -> None:
    page, schema = ((ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS)
    assert all(f"| {name} |" in page for name in METRICS)
    assert all(f'"title": "{kind}"' in schema for kind in EVENT_TYPES)


def test_help_waits_for_nothing_heavy() -> None:
    program = (
        "import sys\nfrom tools.generate_docs import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'pydantic', 'rich')))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True).returncode == 0
