"""What people read: terminal summary, HTML without a browser, help, and outputs that cannot be written."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import time
from pathlib import Path

import pytest

from nestbench_reports import render
from nestbench_reports.text import bytes_text, number, printable, quantity
from tests import synthetic, synthetic_tenants
from tests.conftest import DEFAULT_POLICY, ROOT, Run
from tests.hostile import ATTACK, hostile_document, hostile_tenants

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "reports"), "PYTHONDONTWRITEBYTECODE": "1"}
PROGRAM = ["/usr/bin/python3", "-m", "nestbench_reports"]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (26600, "ns/op", "26.6 µs/op"),
        (1.54, "ns/op", "1.54 ns/op"),
        (598, "us/op", "598 µs/op"),
        (0.5, "s/op", "500 ms/op"),
        (14.83, "GB/s", "14.8 GB/s"),
        (999.9, "ns", "1,000 ns"),
        (0, "ns", "0 ns"),
        (-3.2, "ns", "-3.20 ns"),
    ],
)
def test_quantities(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


def test_numbers_and_sizes() -> None:
    assert [number(value) for value in (1234567, 0.00123, 1e20, 9.999)] == ["1,230,000", "0.00123", "1.00e+20", "10.00"]
    assert [bytes_text(size) for size in (512, 16384, 3 << 19, 5 << 40)] == ["512 B", "16 KiB", "1.50 MiB", "5 TiB"]


def test_printable_takes_out_what_terminals_act_upon() -> None:
    assert printable("plain") == "plain"
    assert printable("a\x1b[31m\u202eb\ud800\nc\x9b") == "a\ufffd[31m\ufffdb\ufffd c\ufffd"


def test_summary_shows_every_part(result_path: Path, tmp_path: Path, run: Run) -> None:
    raw = synthetic.document()
    synthetic.set_status(raw, "overhead/memory_gups/vm", "timeout", "no answer in 10 s")
    result = run("summary", synthetic.write(tmp_path / "other.json", raw))
    assert result.code == 0
    for text in (
        "cpu_integer",
        "vm/bare",
        "A/A vm",
        "doorbell_pio",
        "vm/floor",
        "cold_start",
        "intervals of identical runs hold 1",
        "timeout: overhead/memory_gups/vm: no answer in 10 s",
        "nested/cpu_integer",
        "warning: Guest CPL0 is emulated",
    ):
        assert text in result.out, text
    assert result.out.rstrip().splitlines()[-1].startswith("verdict: broken: ")
    assert run("summary", result_path).out.rstrip().splitlines()[-1].startswith("verdict: pass: ")


def test_summary_shows_density_isolation_attribution_and_containment(tmp_path: Path, run: Run) -> None:
    path = synthetic.write(tmp_path / "result.json", synthetic_tenants.document(rounds=3, samples=4))
    out = run("summary", path).out
    for text in (
        "Density: how many guests fit",
        "117: p99 400 ms is above 50 ms",
        "cpu: CPUs busy 99 % of the time",
        "memory: ENOMEM with 100 guests",
        "steady: vm holds 0.844",
        "Isolation: isol-01",
        "Null row: 0 of 6 cells with an idle neighbour flagged",
        "96.7 % (58 of 60)",
        "36.0 per hour",
        "memory_bomb zone",
        "17 of 20",
        "containment/memory_bomb/zone: contained in 17 of 20 tries; 3 neighbours lost or restarted",
        "containment/soak/vm: 340 faults among 50 guests",
    ):
        assert text in out, text
    # Not one ratio of the substrates of density, isolation or containment as if it were a cost.
    ladder = out[out.index("Overhead:") : out.index("Exits:")]
    assert "density" not in ladder and "latency_p" not in ladder and "memory_per_guest" not in ladder


@pytest.mark.parametrize("columns", [40, 80, 110, 200])
def test_tables_of_many_tenants_fit_every_terminal(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    path = synthetic.write(tmp_path / "result.json", synthetic_tenants.document(rounds=2, samples=2))
    out = run("summary", path).out
    assert max(map(len, out.splitlines())) <= columns
    words = " ".join(out.split())
    assert "Null row" in words and "Containment" in words
    # Names are not folded letter by letter.
    assert "memory_bomb" in out and "cache_thrash" in out


def test_documents_without_many_tenants_have_none_of_their_parts(result_path: Path, tmp_path: Path, run: Run) -> None:
    out = run("summary", result_path).out
    assert run("report", result_path, "-o", tmp_path / "page.html").code == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for text in ("Density:", "Isolation:", "Attribution:", "Containment:"):
        assert text not in out
    for text in ('id="density"', 'id="isolation"', 'id="attribution"', 'id="containment"', "chart-density"):
        assert text not in page
    assert 'id="overhead"' in page


def test_hostile_experiments_are_shown_as_text(tmp_path: Path, run: Run) -> None:
    path = synthetic.write(tmp_path / "result.json", hostile_tenants())
    out = run("summary", path).out
    assert "\x1b" not in out and "\u202e" not in out and "triple_fault vm" in out
    assert run("gate", path, "--policy", DEFAULT_POLICY).code in (1, 6)
    assert run("report", path, "-o", tmp_path / "page.html").code == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert ATTACK[:30] not in page and "&lt;/script&gt;" in page


def test_summary_of_an_emulated_host_warns_before_any_number(tmp_path: Path, run: Run) -> None:
    raw = synthetic.document()
    raw["nestbench"]["host"]["clock"] = "emulated"
    raw["nestbench"]["run"]["interrupted"] = True
    out = run("summary", synthetic.write(tmp_path / "other.json", raw)).out
    assert out.index("every time below is meaningless") < out.index("vm/bare")
    assert "verdict: refused" in out and "interrupted" in out


def test_summary_is_plain_text_without_a_terminal_and_hostile_text_stays_text(tmp_path: Path, run: Run) -> None:
    out = run("summary", synthetic.write(tmp_path / "result.json", hostile_document())).out
    assert "\x1b" not in out and "\x07" not in out and "\u202e" not in out
    assert "[bold]x[/bold]" in out.replace("\n", "")


@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_summary_keeps_to_the_width(columns: int, result_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    out = run("summary", result_path).out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= columns
    for workload in ("cpu_integer", "memory_gups", "doorbell_pio", "cold_start"):
        assert workload in out, workload
    assert ("A/A vm" in out) == (columns >= 120) and ("A/A bare" in out) == (columns >= 150) and "1.000" in out


def test_summary_of_a_quick_document_takes_less_than_three_seconds_of_cpu(result_path: Path) -> None:
    """The goal is 1.5 s on an idle machine; CPU time and a factor of two keep a busy one from failing this."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    subprocess.run([*PROGRAM, "summary", result_path], env=ENVIRONMENT, check=True, capture_output=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert min(time.monotonic() - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) < 3.0


def test_report_is_one_file_that_names_no_other(result_path: Path, run: Run) -> None:
    assert run("report", result_path).code == 0
    page = (result_path.parent / "report.html").read_text(encoding="utf-8")
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)  # the library's own text names its license
    links = re.findall(r"""\b(?:src|srcset|href|action)\s*=\s*["']?([^"'\s>]*)""", own)
    assert links and all(link.startswith("#") for link in links)
    assert not re.search(r"https?://|@import|url\(", own)
    assert "default-src &#39;none&#39;" in own and "unsafe-eval" not in own
    assert len(re.findall(r"sha256-[A-Za-z0-9+/=]{44}", own)) == 2


def test_report_names_everything_that_has_no_value_with_its_reason(tmp_path: Path, run: Run) -> None:
    raw = synthetic.document()
    statuses = ("unsupported", "failed", "error", "crashed", "timeout")
    entries = [entry for entry in raw["nestbench"]["measurements"] if entry["substrate"] == "vm"][: len(statuses)]
    for entry, status in zip(entries, statuses, strict=True):
        synthetic.set_status(raw, entry["id"], status, f"it was {status} because of that")
    assert run("report", synthetic.write(tmp_path / "result.json", raw)).code == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    missing = page.split('<section id="missing">')[1].split("</section>")[0]
    for entry, status in zip(entries, statuses, strict=True):
        for text in (entry["id"], status, f"it was {status} because of that"):
            assert f">{text}<" in missing, (entry["id"], text)
    assert "nested/cpu_integer" in missing and "nested=1" in missing  # what cannot run here, and what would change it


def test_report_escapes_every_string(tmp_path: Path, run: Run) -> None:
    path = synthetic.write(tmp_path / "result.json", hostile_document())
    assert run("report", path).code == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<script") - render._read(render.echarts_path()).count("<script") == 3
    for attack in ("<img src=x", "<svg/onload", "<script>window.", "<b>load</b>", "\x1b", "\u202e"):
        assert attack not in page, attack
    data = page.split('id="data">')[1].split("</script>")[0]
    assert "<" not in data and ">" not in data
    assert json.loads(data)


def test_script_json_cannot_end_its_element() -> None:
    text = render.script_json({"x": "</script><!--&\u2028\ud800"})
    assert not set("<>&\u2028") & set(text) and json.loads(text) == {"x": "</script><!--&\u2028\ud800"}


def test_report_without_the_charts_library_says_how_to_get_it(
    result_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.setenv(render.ECHARTS_VARIABLE, str(tmp_path / "none.js"))
    result = run("report", result_path)
    assert result.code == 2 and render.ECHARTS_VARIABLE in result.err
    monkeypatch.delenv(render.ECHARTS_VARIABLE)
    monkeypatch.setattr(render, "_ECHARTS_PLACES", (tmp_path / "none.js",))
    result = run("report", result_path)
    assert result.code == 2 and "npm ci" in result.err
    assert not (result_path.parent / "report.html").exists()


def test_a_library_that_would_end_its_element_is_refused(
    result_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    library = tmp_path / "echarts.js"
    library.write_text("var x = '</SCRIPT>';", encoding="utf-8")
    monkeypatch.setenv(render.ECHARTS_VARIABLE, str(library))
    result = run("report", result_path)
    assert result.code == 2 and "inlined" in result.err


def test_report_that_cannot_be_written_leaves_the_old_one(result_path: Path, tmp_path: Path, run: Run) -> None:
    old = tmp_path / "old.html"
    old.write_text("old", encoding="utf-8")
    for target, code in ((tmp_path / "none" / "r.html", 2), (tmp_path, 2), (old / "r.html", 2), ("/dev/full", 6)):
        result = run("report", result_path, "-o", target)
        assert result.code == code and "cannot write" in result.err, target
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))  # stands for a disk that fills up half-way
        result = run("report", result_path, "-o", old)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert result.code == 6 and old.read_text(encoding="utf-8") == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.html", "result.json"]


def test_help_of_every_command_has_examples_and_exit_codes(run: Run) -> None:
    for command in ("", "report", "summary", "compare", "gate", "validate"):
        result = run(*command.split(), "--help")
        assert result.code == 0 and "Examples:" in result.out and "Exit codes:" in result.out, command


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["report"], ["summary", "a", "b"], ["gate", "--nonsense"], ["compare", "--fdr", "x", "a", "b"]],
)
def test_wrong_usage_is_exit_code_2_with_one_line(arguments: list[str], run: Run) -> None:
    result = run(*arguments)
    assert (result.code, result.out) == (2, "") and result.err.count("\n") == 1 and "--help" in result.err


def test_no_command_shows_the_help(run: Run) -> None:
    result = run()
    assert result.code == 2 or "Usage" in result.out


def test_a_full_disk_on_standard_output_is_exit_code_6(result_path: Path) -> None:
    path = str(result_path)
    for command in (["summary", path], ["validate", path], ["compare", path, path, "--json"]):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [*PROGRAM, *command], env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
            )
        assert done.returncode == 6 and done.stderr.count("\n") == 1 and "No space left" in done.stderr, done.stderr


def test_a_reader_that_goes_away_and_a_terminal_without_unicode_make_no_noise(result_path: Path) -> None:
    program = [*PROGRAM, "summary", str(result_path)]
    first_line = ["bash", "-c", '"$@" | head -n 1', "bash", *program]
    head = subprocess.run(first_line, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert head.stdout.startswith("nestbench quick") and head.stderr == ""
    ascii_only = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(program, env=ascii_only, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == ""
