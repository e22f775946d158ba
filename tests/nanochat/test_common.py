"""Common helpers, and the files they write."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from nanochat import common, files, hardware


def fresh(code: str, **environment: str) -> str:
    """What a new interpreter prints."""
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return result.stdout.strip()


def test_importing_makes_no_folder_and_reads_the_dtype_once(tmp_path):
    base = tmp_path / "base"
    code = (
        "import os, nanochat.common as c; os.environ['NANOCHAT_DTYPE'] = 'float16';"
        "print(os.path.exists(os.environ['NANOCHAT_BASE_DIR']), c.COMPUTE_DTYPE, c.COMPUTE_DTYPE_REASON);"
        "c.get_base_dir(); print(os.path.isdir(os.environ['NANOCHAT_BASE_DIR']))"
    )
    printed = fresh(code, NANOCHAT_BASE_DIR=str(base), NANOCHAT_DTYPE="bfloat16").splitlines()
    assert printed == ["False torch.bfloat16 set by NANOCHAT_DTYPE=bfloat16", "True"]


def test_every_name_of_upstream_is_there():
    for name in common.__all__:
        assert getattr(common, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'COMPUTE'"):
        common.COMPUTE  # noqa: B018


def test_an_unknown_dtype_names_the_choices():
    with pytest.raises(ValueError, match="unknown dtype 'int8'; choose one of bfloat16, float16, float32"):
        hardware.resolve_dtype("int8", "cpu")
    assert hardware.upstream_dtype("float16")[0] is torch.float16


@pytest.mark.parametrize("native", [True, False])
def test_auto_dtype_is_bfloat16_only_where_the_cpu_has_it(native, monkeypatch):
    monkeypatch.setattr(hardware, "cpu_has_bfloat16", lambda: native)
    assert hardware.resolve_dtype("auto", "cpu") is (torch.bfloat16 if native else torch.float32)
    assert hardware.resolve_dtype("auto", "mps") is torch.float32
    assert hardware.resolve_dtype("float16", "cpu") is torch.float16


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the oracle is Linux's own list")
def test_the_cpus_answer_agrees_with_the_kernels_list():
    words = Path("/proc/cpuinfo").read_text().split()
    listed = {"avx512_bf16", "amx_bf16", "bf16"} & set(words)
    assert hardware.cpu_has_bfloat16() == bool(listed and torch.backends.mkldnn.is_available())


def test_peaks_are_found_by_name_and_unknown_is_infinite():
    assert common.get_peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert common.get_peak_flops("NVIDIA H100 PCIe") == 756e12
    assert common.get_peak_bandwidth("NVIDIA A100-SXM4-40GB") == 1.555e12
    assert common.get_peak_flops("NVIDIA L40S") == 362e12
    assert common.get_peak_bandwidth("Abacus") == float("inf")


def test_compute_init_on_the_cpu_seeds_and_is_not_distributed(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert common.compute_init("cpu") == (False, 0, 0, 1, torch.device("cpu"))
    first = torch.rand(3)
    common.compute_init("cpu")
    assert torch.equal(first, torch.rand(3))
    common.compute_cleanup()
    with pytest.raises(ValueError, match="unknown device type 'tpu'"):
        common.compute_init("tpu")


def test_only_rank_0_prints(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    common.print0("not this")
    monkeypatch.setenv("RANK", "0")
    common.print0("this")
    common.print_banner()
    assert capsys.readouterr().out.startswith("this\n")


def test_logging_colours_a_line_and_leaves_the_record_alone():
    record = logging.LogRecord("n", logging.INFO, "f", 1, "read 12 MB", None, None)
    line = common.ColoredFormatter("%(levelname)s %(message)s").format(record)
    assert line == "\033[32m\033[1mINFO\033[0m read \033[1m12 MB\033[0m"
    assert record.levelname == "INFO"


def test_a_download_happens_once_for_many_callers(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    source = tmp_path / "source.bin"
    source.write_bytes(b"x" * 100_000)
    done: list[str] = []
    work = [
        threading.Thread(target=common.download_file_with_lock, args=(source.as_uri(), "sub/file.bin", done.append))
        for _ in range(4)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(done) == 1
    assert Path(done[0]).read_bytes() == source.read_bytes()


def test_a_download_with_the_wrong_content_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    source = tmp_path / "source.bin"
    source.write_bytes(b"x")
    with pytest.raises(ValueError, match="not kept"):
        common.download_file_with_lock(source.as_uri(), "file.bin", sha256="0" * 64)
    assert os.listdir(tmp_path / "base") == ["file.bin.lock"]
    right = hashlib.sha256(b"x").hexdigest()
    assert Path(common.download_file_with_lock(source.as_uri(), "file.bin", sha256=right)).read_bytes() == b"x"


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half() -> None:
        with files.atomic_write(path) as file:
            file.write(b"ne")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_lock_tells_who_holds_it(tmp_path):
    first, second = files.FileLock(tmp_path / "lock"), files.FileLock(tmp_path / "lock")
    assert first.acquire()
    assert not second.acquire()
    assert second.owner() == str(os.getpid())
    first.release()
    assert second.acquire()
    second.release()
    second.release()
