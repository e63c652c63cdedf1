"""The page of a sweep: it holds everything, says what the tables say, and can be seen in a browser."""

import csv
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from onnxprune.sweeping.facts import RATES, Original, Row, Sweep
from onnxprune.sweeping.figures import COLOURS, panels, standalone
from onnxprune.sweeping.page import DARK, page
from onnxprune.sweeping.table import best, csv_text, front

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
METHODS = ("obs", "lasso<b>&$x$", "none+fc=as")


def example(metric: str = "top-1 accuracy", failed: bool = True) -> Sweep:
    """Three methods at three budgets, figures drawn with a seed."""
    rng, rows = np.random.default_rng(2), []
    for method in METHODS:
        for budget in (0.7, 0.5, 0.3):
            shares = {f"{rate}_share": budget * rng.uniform(0.8, 1) for rate in RATES}
            counts = {name: round(1e6 * shares[f"{name}_share"]) for name in ("macs", "params", "bytes")}
            quality = {
                "accuracy": 0.9 - rng.uniform(0, 0.4) * (1 - budget),
                "relative_error": rng.uniform(0, 1 - budget),
            }
            where = {"file": f"models/{budget}.onnx", "milliseconds": shares["latency_share"] * 2}
            rows.append(
                Row.model_validate({"method": method, "budget": budget, **shares, **counts, **quality, **where})
            )
    if failed:
        rows.append(Row(method=METHODS[0], budget=0.01, failed="cannot be <reached>"))
    sweep = Sweep(
        onnxprune="1",
        model="/some/where/net.onnx",
        by="macs",
        data="arrays",
        samples=8,
        judged=8,
        metric=metric,
        batch=1,
        original=Original(macs=10**6, params=10**6, bytes=10**6, milliseconds=2.0, accuracy=0.9 if metric else None),
        rows=tuple(rows),
        best=(),
    )
    marked = tuple(
        row.model_copy(update={"front": tuple(rate for rate in RATES if number in front(sweep, rate))})
        for number, row in enumerate(rows)
    )
    return sweep.model_copy(update={"rows": marked, "best": best(sweep)})


class Reader(HTMLParser):
    """What a page refers to, and the cells of its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._name, self._inside = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [given[key] or "" for key in ("src", "href", "xlink:href", "data", "poster") if key in given]
        if tag == "table":
            self._name = given.get("id") or ""
            self.tables[self._name] = []
        if tag == "tr" and self._name:
            self.tables[self._name].append([])
        if tag in ("td", "th") and self._name:
            self.tables[self._name][-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.tables[self._name][-1][-1] += data


def test_the_page_reads_nothing_from_elsewhere() -> None:
    text = page(example())
    assert all(link.startswith(("#", "models/")) for link in Reader(text).links)
    assert re.findall(r"@import|<script|<link|<img|<iframe|url\((?!#)", text) == []
    assert set(re.findall(r"https?://[^\"' ]+", text)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert len(re.findall(r"\bid=\"([^\"]+)\"", text)) == len(set(re.findall(r"\bid=\"([^\"]+)\"", text)))


@pytest.mark.parametrize("metric", ["top-1 accuracy", ""])
def test_the_table_of_the_page_says_what_the_csv_says(metric: str) -> None:
    sweep = example(metric)
    lines = list(csv.DictReader(io.StringIO(csv_text(sweep))))
    table = Reader(page(sweep)).tables["all"][1:]
    assert (lines[0]["method"], table[0][0]) == ("original", "the original")
    assert len(lines) == len(table) == 11
    for line, cells in zip(lines[1:-1], table[1:-1], strict=True):
        quality = line["accuracy"] if metric else line["relative_error"]
        numbers = [quality, *(line[f"{rate}_share"] for rate in RATES)]
        expected = [f"{100 * float(number):.1f} %" for number in numbers]
        assert cells == [line["method"], line["budget"], *expected, f"{float(line['milliseconds']):.3g}", cells[-1]]
    assert table[-1] == [METHODS[0], "0.01", "cannot be <reached>"]


@pytest.mark.parametrize("metric", ["top-1 accuracy", ""])
def test_every_point_is_drawn_where_its_numbers_are(metric: str) -> None:
    sweep = example(metric)
    for rate in RATES:
        drawing = ElementTree.fromstring(panels(sweep)[rate])
        points, wanted = [], []
        for method in METHODS:
            path = next(e for e in drawing.iter() if e.get("id") == f"{rate}-{rate}-{method}")[0].get("d") or ""
            points += [tuple(map(float, pair)) for pair in re.findall(r"[ML] (\S+) (\S+)", path)]
            own = [row for row in sweep.rows if row.method == method and not row.failed]
            shown = [(row.rate(rate) or 0, row.accuracy if metric else row.relative_error) for row in own]
            wanted += sorted(shown)
        drawn, expected = np.array(points), np.array(wanted, float)
        assert drawn.shape == (9, 2)
        for axis in (0, 1):  # pixels are a straight line of the numbers
            slope, offset = np.polyfit(expected[:, axis], drawn[:, axis], 1)
            assert np.abs(expected[:, axis] * slope + offset - drawn[:, axis]).max() < 0.01
            assert (slope > 0) == (axis == 0)


def test_the_front_is_what_nobody_beats() -> None:
    sweep = example()
    points = [(1.0, 0.9), *((row.macs_share, row.accuracy) for row in sweep.rows if not row.failed)]
    alive = [
        not any(a <= x and b >= y and (a, b) != (x, y) for a, b in points)  # type: ignore[operator]
        for x, y in points[1:]
    ]
    assert 0 < sum(alive) < len(alive)
    assert [i for i, one in enumerate(alive) if one] == sorted(front(sweep, "macs"))


def test_the_best_of_a_budget_is_the_most_accurate() -> None:
    sweep = example()
    for number, budget in zip(best(sweep), (0.7, 0.5, 0.3), strict=True):
        rivals = [row.accuracy or 0 for row in sweep.rows if row.budget == budget]
        assert (sweep.rows[number].budget, sweep.rows[number].accuracy) == (budget, max(rivals))


def test_the_picture_for_documents_stands_alone() -> None:
    text = standalone(example())
    assert "var(--" not in text
    assert text.count("http") == text.count("http://www.w3.org/")
    words = " ".join("".join(ElementTree.fromstring(text).itertext()).split())
    assert all(word in words for word in (*METHODS, "Pareto front", "the original", "latency at batch 1"))


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_the_curves(tmp_path: Path, dark: bool) -> None:
    file, shot = tmp_path / "index.html", tmp_path / "page.png"
    file.write_text(page(example()), encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,1500"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000"]
    if dark:
        options.append("--blink-settings=preferredColorScheme=0")
    done = subprocess.run(
        [str(BROWSER), *options, f"--screenshot={shot}", file.as_uri()], capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    pixels = np.asarray(Image.open(shot).convert("RGB")).reshape(-1, 3)
    paper = pixels[-1]
    assert (paper.mean() < 64) == dark
    for colour in (DARK if dark else COLOURS)[: len(METHODS)]:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        seen = np.abs(pixels.astype(int) - wanted).max(1) < 6
        assert seen.sum() > 1000, colour  # four curves with their points, not a dot in the table
    ink = np.abs(pixels.astype(int) - (232 if dark else 26)).max(1) < 12
    assert ink.sum() > 2000  # axes, labels and tables
