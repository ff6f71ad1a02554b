"""The whole report as a file, also in a real browser."""

import base64
import hashlib
import io
import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import finished_root
import numpy as np
import pytest
from PIL import Image
from system_parts import need, program

from harness.config.settings import RunOptions
from harness.launch import runner
from harness.launch.runner import Finished
from harness.report import html_page, html_report, qualitative
from harness.results import stats
from harness.results.evidence import Evidence
from harness.results.frame import to_frame
from harness.results.paper import Claim
from harness.results.rows import CellResult, ClaimResult, Gain, Row, aggregate
from harness.results.stats import Interval

COMMAND = ("harness", "run", "ablation_ensemble", "extra=[<b>&]")


def report(plan: Any, failures: dict[str, str] | None = None) -> Finished:
    """The report of a root as it stands; nothing is run."""
    from harness.tracking.publisher import Silent

    experiment = plan.experiments[0]
    by_cell = {cell.name: cell.job for _, cell in experiment.cells}
    broken = {by_cell[name]: reason for name, reason in (failures or {}).items()}
    return runner.conclude(plan, experiment, Silent(), broken, RunOptions(command=COMMAND), "FINISHED", True)


def changed(report: Finished, **values: str) -> list[Row]:
    """The report's rows, every run with other values."""
    return aggregate((replace(run, **values) for row in report.rows for run in row.runs), report.context)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = tmp_path_factory.mktemp("many")
    return report(finished_root.make(root, seeds=2, without=("decoder_b/1",)))


def test_it_is_whole_and_asks_for_nothing(many: Finished) -> None:
    text = (many.folder / html_page.NAME).read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', text)
    assert len(sources) > 8
    assert all(source.startswith(("data:", "#")) for source in sources)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert text.count("<script") == 2  # the other one holds the numbers of the comparison
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\"" in text
    assert text.count("<img") == len(re.findall(r'<img [^>]*alt="[^"]{20,}"', text)) >= 8
    for said in ("Decoder A over UPerNet", "not comparable", "7 of 8", "0123456789ab", "best (", "worst (", "median ("):
        assert said in text
    assert "extra=[&lt;b&gt;&amp;amp;]" in text or "extra=[&lt;b&gt;&amp;]" in text
    assert "<b>&]" not in text


def test_figures_tables_and_panels_are_files(many: Finished) -> None:
    names = {path.name for path in many.folder.iterdir()}
    for figure in ("gains", "gains_by_class", "learning_curves", "total_loss", "memory_similarity", "memory_drift"):
        assert f"{figure}.png" in names
    assert {"report.md", "evidence.json", "ablation_ensemble_by_class.csv", "index.html"} <= names
    assert len(list((many.folder / "panels").glob("*.png"))) == len(many.context.evidence.panels) >= 3
    by_class = many.report.appendix["ablation_ensemble_by_class"]
    assert len(by_class.rows) == 8
    assert many.context.evidence == Evidence.from_json(many.context.evidence.to_json())


def test_missing_failed_and_one_seed_are_said(tmp_path: Path) -> None:
    made = finished_root.make(tmp_path, videos=5, without=("decoder_b",), decoder_ab="out of memory <i>")
    done = report(made, {"decoder_ab": "out of memory <i>"})
    text = (done.folder / html_page.NAME).read_text()
    assert "Incomplete:" in text
    assert "Decoder B: missing: not run yet" in text
    assert "Decoder A+B: failed: out of memory &lt;i&gt;" in text
    assert "no verdict" in text
    assert "fewer than 20 videos" in text


def test_stages_have_a_curve_of_one_colour_and_panels_of_their_own(tmp_path: Path) -> None:
    done = report(finished_root.make(tmp_path, experiment="ablation_stages"))
    assert "Decoder A: stage 0 " in done.report.figures["stages"].alt
    assert (done.folder / "stages.png").is_file()
    (panel, *_) = done.context.evidence.panels
    rows = ["stage 0", "stage 1", "stage 2", "stage 3", "P = ground truth"]
    assert f"the masks of {', '.join(f'Decoder A, {row}' for row in rows)}, and where" in panel["alt"]
    assert "Decoder A, stage 3 and Decoder A, stage 0 disagree" in panel["alt"]  # not the row that is told P


def test_every_commit_is_named_and_can_be_checked_out(many: Finished, tmp_path: Path) -> None:
    rows = changed(many, commit="a" * 40 + ", " + "b" * 40)
    text = html_report.render(many.report, rows, many.context, tmp_path)
    assert f"{'a' * 12}, {'b' * 12}" in text
    assert f"git checkout {'a' * 12}   # rows also ran at {'b' * 12}" in text


def test_nothing_at_all_still_renders(tmp_path: Path) -> None:
    made = finished_root.make(tmp_path, without=("upernet", "decoder_a", "decoder_b", "decoder_ab"))
    started = time.process_time()
    text = (report(made).folder / html_page.NAME).read_text()
    assert "0 of 4" in text
    assert "No images" in text
    assert time.process_time() - started < 15


def test_names_from_data_are_text(many: Finished, tmp_path: Path) -> None:
    nasty = '<script>alert(1)</script>"$x_1$'
    rows = changed(many, label=nasty)
    context = replace(many.context, title=nasty, command=nasty, evidence=replace(many.context.evidence, command=nasty))
    made = runner.plugins.load("reports", "comparison", ()).render(
        to_frame(run for row in rows for run in row.runs), context
    )
    text = html_report.render(made, rows, context, tmp_path)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    assert text.count("<script") == 2


@pytest.mark.parametrize("width", [1280, 820])
def test_a_browser_shows_it(many: Finished, width: int) -> None:
    need("chromium")
    from playwright.sync_api import sync_playwright

    said: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program("chromium"), args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": width, "height": 1000})
        shown.on("console", lambda message: said.append(message.text))
        shown.on("pageerror", lambda error: said.append(str(error)))
        shown.on("request", lambda request: None if request.url.startswith("data:") else said.append(request.url))
        address = (many.folder / html_page.NAME).as_uri()
        shown.goto(address)
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth || i.clientWidth > innerWidth).length"
        assert shown.evaluate(broken) == 0
        assert shown.locator("h2").first.inner_text() == "Results"
        browser.close()
    assert said == [address]


@pytest.mark.parametrize("experiment", ["ablation_ensemble", "ablation_stages"])
def test_no_table_is_cut(experiment: str, tmp_path: Path) -> None:
    need("chromium")
    from playwright.sync_api import sync_playwright

    folder = report(finished_root.make(tmp_path, seeds=3, experiment=experiment)).folder
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.goto((folder / html_page.NAME).as_uri())
        cut = (
            "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).map(e => e.ariaLabel)"
        )
        assert page.locator(".scroll").count() > 3
        for width in (1440, 820):
            page.set_viewport_size({"width": width, "height": 1000})
            assert page.evaluate(cut) == []
        assert page.locator("p.headline").inner_text().endswith("; synthetic videos, 3 seeds.")
        browser.close()


def test_tables_are_sorted_copied_and_compared(many: Finished) -> None:
    need("chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto((many.folder / html_page.NAME).as_uri())
        table = page.locator("table").first
        first = "table => [...table.tBodies[0].rows].map(row => row.cells[0].textContent)"
        miou = table.locator("thead button", has_text="mIoU").first
        miou.click()
        assert miou.locator("..").get_attribute("aria-sort") == "descending"
        falling = table.evaluate(first)
        miou.click()
        assert table.evaluate(first) == falling[::-1] != falling
        page.locator(".copy button", has_text="CSV").first.click()
        copied = page.locator(".copy textarea[name=CSV]").first.input_value()
        assert copied == (many.folder / "ablation_ensemble.csv").read_text()
        compare = page.locator("#comparison")
        compare.locator("select").nth(2).select_option("units")
        assert compare.locator("tbody tr").count() == 24  # videos
        best = compare.locator("tbody tr").first.locator("td").all_inner_texts()
        browser.close()
    last, base = many.rows[-1], many.rows[0]
    names = last.sums[0].names
    ours, theirs = (np.mean([100 * stats.miou(each.sums) for each in row.sums], axis=0) for row in (last, base))
    index = int(np.argmax(np.round(ours, 2) - np.round(theirs, 2)))
    assert best == [names[index], f"{ours[index]:.2f}", f"{theirs[index]:.2f}", f"+{ours[index] - theirs[index]:.2f}"]


def test_frames_of_any_two_rows_are_cut_from_the_panels(many: Finished) -> None:
    need("chromium")
    from playwright.sync_api import Page, sync_playwright

    def drawn(page: Page) -> list[np.ndarray]:
        """The pixels of each canvas of the first video: frame, ground truth, one row, the other, disagreement."""
        texts = page.locator(".tiles").first.locator("canvas").evaluate_all("all => all.map(each => each.toDataURL())")
        images = [Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))) for text in texts]
        return [np.asarray(image.convert("RGB"), int) for image in images]

    panel = many.context.evidence.panels[0]
    width, height = panel["tile"]
    mosaic = np.asarray(Image.open(many.folder / "panels" / panel["file"]), int)
    at = [qualitative.corner(index, height) for index in range(3 + len(panel["cells"]))]
    tiles = [mosaic[top : top + height, left : left + width] for left, top in at]
    by_cell = dict(zip(panel["cells"], tiles[2:-1], strict=True))
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.goto((many.folder / html_page.NAME).as_uri())
        compare = page.locator("#comparison")
        assert compare.locator("canvas").count() == 0  # on demand
        compare.locator("summary").click()
        page.wait_for_selector("canvas")
        assert compare.locator("figure").count() == len(many.context.evidence.panels)
        frame, truth, ours, base, disagreement = drawn(page)  # the rows that the panel compares
        for pixels, tile in ((frame, tiles[0]), (truth, tiles[1]), (ours, by_cell["decoder_ab"])):
            np.testing.assert_array_equal(pixels, tile)
        np.testing.assert_array_equal(base, by_cell["upernet"])
        np.testing.assert_allclose(disagreement, tiles[-1], atol=1)  # grey is rounded there, cut here
        compare.locator("select").nth(0).select_option("1")
        compare.locator("select").nth(1).select_option("2")
        _, _, ours, base, other = drawn(page)
        np.testing.assert_array_equal(ours, by_cell["decoder_a"])
        np.testing.assert_array_equal(base, by_cell["decoder_b"])
        green = (other == qualitative.RIGHT).all(axis=2)
        correct = [(mask == truth).all(axis=2) for mask in (ours, base)]
        np.testing.assert_array_equal(green, correct[0] & ~correct[1])
        assert green.any()
        assert problems == []
        browser.close()


def test_rows_say_where_their_configurations_differ(many: Finished) -> None:
    settings = many.context.evidence.settings
    assert settings["upernet"]["decoder"] == "upernet"
    assert settings["decoder_ab"]["decoder"] == "decoder_a + decoder_b"
    assert settings["decoder_a"]["decoder_a.momentum"] == settings["decoder_ab"]["decoder_a.momentum"]
    assert "decoder_a.momentum" not in settings["upernet"]
    assert all("epochs" not in values for values in settings.values())  # it is the same in all rows
    table = html_report.settings(many.rows, many.context)
    assert table.columns == ("Key", "UPerNet", "Decoder A", "Decoder B", "Decoder A+B")
    assert next(row for row in table.rows if row[0] == "decoder_a.momentum")[1] == "–"


def test_a_comparison_needs_two_rows_and_its_numbers_are_whole(many: Finished) -> None:
    assert html_report.compared_rows(many.rows[:1], many.context) is None
    content = json.loads(str(html_report.compared_rows(many.rows, many.context)))
    assert [row["label"] for row in content["rows"]] == [row.label for row in many.rows]
    assert {len(row["classes"]) for row in content["rows"]} == {len(content["classes"])} == {8}
    nasty = replace(many.context, evidence=replace(many.context.evidence, classes=("</script>", *"abcdefg")))
    text = str(html_report.compared_rows(many.rows, nasty))
    assert "<" not in text
    assert json.loads(text)["classes"][0] == "</script>"
    assert html_report.tiles({"file": "0.png", "classes": ()}) == ""  # a panel of an earlier version


def test_a_cell_breaks_before_its_interval_alone() -> None:
    assert html_page.whole("67.04 ± 0.99 [64.58, 69.50]") == "67.04\u00a0±\u00a00.99 [64.58,\u00a069.50]"
    assert html_page.whole("+0.47 ± 1.70 [−3.75, +4.69]") == "+0.47\u00a0±\u00a01.70 [−3.75,\u00a0+4.69]"


@pytest.mark.parametrize(
    ("word", "tone"),
    [
        ("reproduced", "good"),
        ("same sign", "mild"),
        ("no difference of 0.5 or more", "even"),
        ("undecided", "open"),
        ("contradicted", "bad"),
        (None, ""),
    ],
)
def test_every_word_has_its_colour_and_its_interval_its_name(word: str | None, tone: str) -> None:
    gain = Interval(-0.4, 0.2, of="seeds and videos")
    claim = Claim("e", "a", "b", 1.22, "§5.2")
    rows = aggregate(CellResult("e", name, name.upper(), 0) for name in ("a", "b"))
    shown = html_report.card(ClaimResult(claim, Gain({0: -0.1}, gain, False), word, None), rows, 0.5)
    assert (shown["word"], shown["tone"]) == (word or "no verdict", tone)
    assert shown["bounds"] == "[−0.40, +0.20] of seeds and videos"
    assert not tone or f".{tone} {{ --tone:" in (Path(html_report.__file__).parent / "templates/page.css").read_text()
