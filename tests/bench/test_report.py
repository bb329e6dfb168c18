"""What is said about a run: rows, sentences, tables, the README's figures, and the page of pictures."""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from bench import captions, report, tables
from bench.codecs import BARE, DATACLASSES, OURS_BUILT
from bench.floors import BARE_TRIO, EXCHANGES
from bench.numerals import count, duration, figure, size
from bench.results import (
    FORKSERVER,
    IN_PROCESS,
    JAVASCRIPT,
    MACHINE,
    NO_CODE,
    OURS,
    Line,
    Mode,
    Noise,
    Run,
    Subject,
    save,
)
from bench.tables import Row, cell, floor_cell
from tests.bench.bench_kit import fill, make_run

ODD = 'odd <b>"runner"</b> [red]'
RUNNERS = {OURS: 1.0, FORKSERVER: 20.0, IN_PROCESS: 0.25, ODD: 2.0}
"""How many times as long as ours each of them takes, of everything."""


def full_run(mode: Mode = "full") -> Run:
    """A made-up run in which every figure was measured."""
    run = make_run(unit=10.0, mode=mode)
    run.subjects = [
        Subject(name=OURS, kind="runner", note="ours"),
        Subject(name=FORKSERVER, kind="peer"),
        Subject(name=IN_PROCESS, kind="peer"),
        Subject(name=ODD, kind="runner"),
        *EXCHANGES,
        *(Subject(name=name, kind="codec") for name in (OURS_BUILT, DATACLASSES)),
        Subject(name=BARE, kind="floor"),
        Subject(name=JAVASCRIPT, kind="workflow"),
        Subject(name=NO_CODE, kind="workflow"),
    ]
    for name, times in RUNNERS.items():
        fill_runner(run, name, times)
    for concurrency in (1, 5):
        for subject in EXCHANGES:
            spread_out(run, "exchange", subject.name, 1.0, concurrency=concurrency)
            fill(run, "exchange_rate", subject.name, 1000.0, concurrency=concurrency)
        fill(run, "fork", MACHINE, 0.5, in_flight=concurrency)
        fill(run, "fork_rate", MACHINE, 800.0, in_flight=concurrency)
    for many in (100_000, 10_000_000):
        fill(run, "json", MACHINE, many / 1e6, bytes=many, items=many // 500)
    for tasks in (100, 200, 300):
        spread_out(run, "growth_latency", OURS, 2.0, tasks=tasks)
        for part, megabytes in (("main", 30.0), ("tree", 46.0)):
            fill(run, "growth_memory", OURS, megabytes, 1, tasks=tasks, part=part)
    for codec, microseconds in {OURS: 0.2, OURS_BUILT: 0.3, DATACLASSES: 3.0, BARE: 0.16}.items():
        for operation in ("decode", "encode"):
            for message, items in (("broker:drain", 0), ("runner:taskdone", 1), ("runner:taskdone", 1000)):
                params = {"message": message, "operation": operation, "items": items, "bytes": 50 + 200 * items}
                fill(run, "codec", codec, microseconds * (1 + items), **params)
    for name, workflow, milliseconds in (
        (OURS, "py-all", 17.0),
        (JAVASCRIPT, "js-all", 16.0),
        (NO_CODE, "no-code", 11.0),
    ):
        spread_out(run, "webhook", name, milliseconds, workflow=workflow)
    run.lines = [
        Line(name="a line | reached", value=0.31, limit=0.35, unit="units", absolute="3.1 ms", reference="11"),
        Line(name="missed", value=2.0, limit=4.2, least=True, unit="per unit", reference="15 to 25"),
        Line(name="not measured", value=None, limit=3.0, unit="x"),
    ]
    run.remarks = ["the <odd> runner, memory: [it] does not"]
    return run


def fill_runner(run: Run, name: str, times: float) -> None:
    for concurrency in (1, 5, 20):
        spread_out(run, "latency", name, 2.0 * times * concurrency, concurrency=concurrency)
        fill(run, "throughput", name, 500.0 / times, concurrency=concurrency)
        for part, share in (("tree", 1.0), ("main", 0.3), ("below", 0.7)):
            fill(run, "cpu", name, 1.5 * times * share, part=part, concurrency=concurrency)
    for mode in ("all", "each"):
        for items in (1, 1000):
            fill(run, "items", name, 2.0 * times * items**0.5, items=items, mode=mode)
        for many in (100_000, 10_000_000):
            fill(run, "echo", name, many / 1e5 * times, bytes=many, items=many // 500, mode=mode)
    fill(run, "peak_copies", name, 2.5 * times, bytes=10_000_000)
    for alone in ("pandas", "pandas_trivial", "start_registered", "idle_memory", "idle_wakeups"):
        fill(run, alone, name, 8.0 * times)
    fill(run, "start_first_result", name, 12.0 * times)
    fill(run, "task_memory", name, 0.646 * times)


def spread_out(run: Run, figure_name: str, subject: str, middle: float, **params: str | int) -> None:
    """Three rounds of samples around a middle, with a long tail."""
    samples = [middle * (0.9 + n / 500) for n in range(100)] + [middle * 3]
    for turn in range(3):
        run.record(figure_name, subject, samples, turn=turn, **params)


# Numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.01234, "0.0123"),
        (0.79, "0.79"),
        (1.0, "1"),
        (12.34, "12.3"),
        (100.0, "100"),
        (39_400.0, "39,400"),
        (-2.5, "-2.5"),
    ],
)
def test_a_figure_has_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert figure(value) == text


def test_times_and_sizes_take_the_unit_that_fits() -> None:
    assert [duration(ms) for ms in (0.000047, 0.00021, 2.134, 1350.0)] == ["47 ns", "0.21 µs", "2.13 ms", "1.35 s"]
    assert [size(many) for many in (500, 100_000, 100_000_000)] == ["500 B", "100 KB", "100 MB"]
    assert [count(many) for many in (1, 1500, 100_000)] == ["1", "1.5k", "100k"]


# Rows


def test_a_ratio_says_how_many_times_better_ours_is_whichever_way_better_lies() -> None:
    run = full_run()
    latency = Row("", "latency", {"concurrency": 1})
    rate = Row("", "throughput", {"concurrency": 5}, more=True)
    for row in (latency, rate):
        found = {name: cell(run, row, name) for name in RUNNERS}
        assert {name: one.times for name, one in found.items() if one} == pytest.approx(RUNNERS)
    assert cell(run, latency, "nobody") is None


def test_percentiles_are_compared_with_percentiles() -> None:
    run = full_run()
    found = cell(run, Row("", "latency", {"concurrency": 1}, 99.0), FORKSERVER)
    assert found is not None
    assert found.value == pytest.approx(2.0 * 20 * (0.9 + 99 / 500))
    assert found.times == pytest.approx(20.0)


def test_the_floor_of_the_rate_is_the_slower_of_exchange_and_fork() -> None:
    run = full_run()
    [row] = [row for row in tables.rows(run) if row.label == "trivial tasks, 5 at a time"]
    found = floor_cell(run, row)
    assert found is not None
    assert (found.value, found.unit) == (800.0, "forks/s")
    assert found.times == pytest.approx(800 / 500)


def test_a_time_is_so_many_times_its_floor() -> None:
    run = full_run()
    [row] = [row for row in tables.rows(run) if row.label == "trivial task, p50"]
    found = floor_cell(run, row)
    assert found is not None
    assert found.times == pytest.approx(2.0)


def test_zero_has_no_ratio_and_raises_nothing() -> None:
    run = make_run()
    fill(run, "idle_wakeups", OURS, 0.0)
    fill(run, "idle_wakeups", FORKSERVER, 4.0)
    row = Row("", "idle_wakeups")
    found = cell(run, row, FORKSERVER)
    assert found is not None
    assert (found.times, found.relative) == (math.inf, "–")
    ours = cell(run, row, OURS)
    assert ours is not None
    assert ours.relative == "1x"


def test_one_round_has_no_spread() -> None:
    run = make_run()
    fill(run, "pandas", OURS, 8.0, 1)
    found = cell(run, Row("", "pandas"), OURS)
    assert found is not None
    assert found.spread is None


def test_what_ours_was_not_measured_with_has_no_row() -> None:
    run = make_run()
    fill(run, "pandas", FORKSERVER, 8.0)
    assert list(tables.rows(run)) == []


def test_headlines_are_labels_of_rows() -> None:
    assert {row.label for row in tables.rows(full_run())} >= set(tables.HEADLINES)


def test_messages_are_grouped_by_size_and_direction() -> None:
    groups = tables.codecs(full_run())
    assert [group.label for group in groups] == [
        "read a small message",
        "write a small message",
        "read 1,000 items",
        "write 1,000 items",
    ]
    assert groups[0].microseconds[OURS] == pytest.approx(math.sqrt(0.2 * 0.4))
    assert groups[0].microseconds[DATACLASSES] == pytest.approx(math.sqrt(3.0 * 6.0))


# Sentences


def test_every_picture_has_a_sentence_with_the_run_s_figures() -> None:
    said = {name: caption(full_run()) for name, caption in captions.CAPTIONS.items()}
    assert all(sentence and sentence.endswith(".") for sentence in said.values()), said
    for name, words in {
        "latency": ["within 2 ms", "20 times sooner than the forkserver peer", "2 times the bare exchange"],
        "throughput": ["500 trivial tasks", "20 times the forkserver peer's", "50% of the bare exchange's", "62% of"],
        "payload_bytes": ["10 MB of items come back after 100 ms", "10 times what it takes to parse"],
        "growth_memory": ["After 300 tasks the runner holds 46 MB"],
        "memory": ["8 MB when idle", "adds 0.646 MB"],
        "messages_large": ["1,000 items is read in 0.2 ms", "15 and 15 times faster", "80% and 80%"],
        "webhook": ["17 ms with ours", f"16 ms with {JAVASCRIPT}"],
    }.items():
        for word in words:
            assert word in (said[name] or ""), said[name]


def test_a_sentence_says_when_the_other_one_is_faster() -> None:
    run = make_run()
    fill(run, "latency", OURS, 4.0, concurrency=1)
    fill(run, "latency", FORKSERVER, 2.0, concurrency=1)
    assert "2 times later than the forkserver peer" in (captions.latency(run) or "")


def test_a_run_that_measured_nothing_has_no_sentences() -> None:
    assert {caption(make_run()) for caption in captions.CAPTIONS.values()} == {None}


def test_the_verdicts_are_counted() -> None:
    assert captions.verdicts(full_run()) == "1 of 2 lines reached, 1 not measured in this run"


# The terminal


def printed(run: Run) -> str:
    out = io.StringIO()
    report.print_run(run, out)
    return out.getvalue()


def test_the_terminal_shows_verdicts_then_ratios_then_absolute_values() -> None:
    text = printed(full_run())
    places = [text.index(words) for words in ("What must be reached", "Ratios:", "Absolute values", "Wire vocabulary")]
    assert places == sorted(places)
    assert re.search(r"trivial task, p50 +2 ms +20x +0\.25x +2x +2x", text)
    assert re.search(r"missed +2 per unit +at least 4\.2 per unit +missed", text)


def test_the_terminal_says_what_disturbed_the_run_and_what_failed() -> None:
    run = full_run()
    run.noise = Noise(load_at_start=3.0, unit_spread=0.5, steal=0.0, remarks=("The machine was [busy].",))
    run.failures = ["trio-runner, payload: it [died]"]
    text = printed(run)
    for words in (*run.noise.remarks, *run.failures, *run.remarks):
        assert words in text


def test_a_name_that_looks_like_markup_is_shown_as_it_is() -> None:
    assert "[red]" in printed(full_run())


def test_a_run_of_one_part_is_shown_too() -> None:
    assert "lines reached" in printed(make_run())


# The README


def test_the_figures_go_between_the_markers_and_nowhere_else(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold figures\n{report.END}\nafter\n")
    report.fill_readme(full_run(), readme)
    text = readme.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "old figures" not in text
    assert "| a line \\| reached | 0.31 units (3.1 ms) | at most 0.35 units | 11 | reached |" in text
    assert captions.latency(full_run()) in text
    report.fill_readme(full_run(), readme)
    assert readme.read_text() == text


def test_every_row_of_a_markdown_table_has_all_its_cells() -> None:
    for block in report.markdown(full_run()).split("\n\n"):
        rows = [re.sub(r"\\\|", "", line) for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1, block


def test_a_text_without_markers_is_left_alone(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("nothing to fill")
    with pytest.raises(ValueError, match="no markers"):
        report.fill_readme(full_run(), readme)
    assert readme.read_text() == "nothing to fill"


def test_the_readme_takes_full_runs_of_all_parts_only(tmp_path: Path) -> None:
    for run in (full_run("quick"), make_run()):
        with pytest.raises(ValueError, match=f"all parts; this is a {run.mode} one"):
            report.fill_readme(run, tmp_path / "README.md")


def test_the_benchmark_s_readme_has_the_markers_once() -> None:
    text = report.README.read_text(encoding="utf-8")
    assert (text.count(report.BEGIN), text.count(report.END)) == (1, 1)


def test_the_command_shows_a_file(tmp_path: Path) -> None:
    save(full_run("quick"), tmp_path / "run.json")
    shown = CliRunner().invoke(report.main, [str(tmp_path / "run.json")])
    assert shown.exit_code == 0
    assert "1 of 2 lines reached" in shown.output
    refused = CliRunner().invoke(report.main, [str(tmp_path / "run.json"), "--readme"])
    assert refused.exit_code == 1
    assert "full run" in refused.output


# The page


@pytest.fixture(scope="module")
def page() -> str:
    pytest.importorskip("matplotlib")
    from bench.page import render

    return render(full_run())


def test_every_picture_is_on_the_page_under_its_sentence(page: str) -> None:
    from bench.pictures import PICTURES

    run = full_run()
    assert set(PICTURES) == set(captions.CAPTIONS)
    assert page.count("<figure>") == len(PICTURES)
    for caption in captions.CAPTIONS.values():
        assert f"<h3>{(caption(run) or '').replace(chr(39), '&#x27;')}</h3>" in page


def test_the_page_needs_nothing_from_elsewhere(page: str) -> None:
    assert not re.search(r"https?:|//[a-z]|<script|<link|<img|\bsrc=|@import|xmlns", page)
    assert set(re.findall(r"url\((.)", page)) <= {"#"}


def test_the_pictures_are_whole_and_do_not_share_names(page: str) -> None:
    pictures = re.findall(r"<svg .*?</svg>", page, re.DOTALL)
    assert len(pictures) > len(captions.CAPTIONS)
    names: Counter[str] = Counter()
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        here = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
        names.update(here)
        assert set(re.findall(r"url\(#([^)]+)\)", picture) + re.findall(r'href="#([^"]+)"', picture)) <= set(here)
    assert [name for name, times in names.items() if times > 1] == []


def test_every_colour_has_a_light_and_a_dark_form_and_no_other_is_used(page: str) -> None:
    style = page[page.index("<style>") : page.index("</style>")]
    light, dark = style.split("@media (prefers-color-scheme: dark)", 1)
    used = set(re.findall(r"var\((--\w+)\)", page))
    assert used
    for scheme in (light, dark):
        assert used <= set(re.findall(r"(--\w+):", scheme))
    # black is what matplotlib takes when nobody chose a colour
    assert not re.search(r"#[0-9a-f]{6}", page[page.index("</style>") :])


def test_names_cannot_break_the_page(page: str) -> None:
    assert "odd &lt;b&gt;" in page
    assert "odd <b>" not in page


def test_words_in_pictures_keep_all_their_digits(page: str) -> None:
    assert ">0.646 MB</text>" in page


def test_the_verdicts_stand_left_and_right_of_the_line(page: str) -> None:
    [reached] = re.findall(r'<div class="line reached">.*?<div class="track">(.*?)</div>', page)
    [missed] = re.findall(r'<div class="line missed">.*?<div class="track">(.*?)</div>', page)
    places = {
        kind: [float(x) for x in re.findall(r"left:([\d.]+)%", dots)] for kind, dots in (("r", reached), ("m", missed))
    }
    assert places["r"][0] > 50 > places["r"][1]  # n8n's runner, then ours
    assert places["m"][0] < 50 < places["m"][1]
    assert '<div class="line unmeasured">' in page


def test_noise_and_failures_stand_above_the_figures() -> None:
    pytest.importorskip("matplotlib")
    from bench.page import render

    run = make_run()
    run.noise = Noise(load_at_start=3.0, unit_spread=0.5, steal=0.0, remarks=("Something else ran.",))
    run.failures = ["trio-runner, payload: it died"]
    page = render(run)
    assert page.index("it died") < page.index("Something else ran.") < page.index("Again, on your machine")
    assert "quiet machine" not in page


def test_a_run_that_measured_nothing_makes_a_page_without_pictures() -> None:
    pytest.importorskip("matplotlib")
    from bench.page import render

    page = render(make_run())
    assert "<figure>" not in page
    assert "quiet machine" in page


def test_the_same_run_makes_the_same_page(page: str) -> None:
    from bench.page import render

    assert render(full_run()) == page


def test_a_picture_of_one_runner_at_one_place_can_be_drawn() -> None:
    """What a run of some parts, or one that was cut short, leaves."""
    pytest.importorskip("matplotlib")
    from bench.pictures import draw

    run = make_run()
    run.subjects = [Subject(name=OURS, kind="runner")]
    fill(run, "latency", OURS, 2.0, 1, concurrency=1)
    fill(run, "throughput", OURS, 500.0, 1, concurrency=1)
    fill(run, "echo", OURS, 2.0, 1, bytes=100_000, items=200, mode="all")
    fill(run, "growth_latency", OURS, 2.0, 1, tasks=100)
    fill(run, "exchange", BARE_TRIO, 1.0, 1, concurrency=1)
    assert set(draw(run)) == {"latency", "throughput", "payload_bytes", "growth_latency"}


def test_the_page_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    save(make_run(), tmp_path / "run.json")
    done = CliRunner().invoke(report.main, [str(tmp_path / "run.json"), "--html", str(tmp_path / "page.html")])
    assert done.exit_code == 0
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
