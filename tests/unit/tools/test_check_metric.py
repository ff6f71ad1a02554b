"""`harness check METRIC`: ours hold, and each way not to add up is named."""

import re
from pathlib import Path

import pytest

from harness import cli
from harness.config import plugins
from harness.tools import check

DOCS = Path(__file__).parents[3] / "docs"
EXAMPLE = DOCS / "examples" / "metrics" / "confident_errors.py"
PROCESS = "another process gives the same bits"  # seconds


def broken(name: str, folder: Path) -> dict[str, str]:
    found = {result.what: result for result in check.checks("metrics", name, [folder], leave_out=[PROCESS])}
    return {what: result.text for what, result in found.items() if not result.passed}


@pytest.mark.parametrize("name", plugins.names("metrics"))
def test_ours_hold(name: str) -> None:
    assert [result for result in check.checks("metrics", name, leave_out=[PROCESS]) if not result.passed] == []


def test_the_guides_example_holds_by_the_guides_command(capsys: pytest.CaptureFixture[str]) -> None:
    guide = (DOCS / "METRICS.md").read_text()
    assert "harness check confident_errors --plugins docs/examples" in guide
    assert cli.main(["check", "confident_errors", "--plugins", str(DOCS / "examples")]) == 0
    captured = capsys.readouterr()
    assert "12 of 12 checks passed" in captured.err
    assert f"ok     {PROCESS}" in captured.out


def test_the_guide_prints_the_example() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (DOCS / "METRICS.md").read_text(), re.DOTALL)
    assert block.strip() in EXAMPLE.read_text()


@pytest.mark.parametrize(
    ("change", "what", "text"),
    [
        (
            (
                'return {"confident_errors": errors / pixels if pixels else float("nan")}',
                'return {"confident_errors": errors / 1e6}',
            ),
            "each video twice changes no number",
            "is a mean being added?",
        ),
        (
            ("self.sums = np.zeros(2)", "self.sums = SHARED"),
            "sums do not depend on other videos",
            "a video after others has",
        ),
        (
            ("self.sums += labelled.sum(), (wrong & sure).sum()", "self.sums = np.ones((2, frame.label.shape[0]))"),
            "sums always have the same shape",
            "those of all videos must have the same shape",
        ),
        (
            ("if frame.label is None:\n            return\n        ", ""),
            "frames of every kind are accepted",
            "TypeError",
        ),
        (
            (' if pixels else float("nan")', " if pixels else 0.0"),
            "without ground truth it is undefined",
            "expected nan",
        ),
        (
            ('{"confident_errors": "confident errors"}', '{"miou": "errors"}'),
            "its numbers have names",
            "the metric 'mean_iou' also has miou",
        ),
        (
            ('{"confident_errors": errors', '{"errors": errors'),
            "any split of videos merges to the same",
            "`values` returns ['errors']",
        ),
    ],
)
def test_each_way_to_be_broken_is_named(tmp_path: Path, change: tuple[str, str], what: str, text: str) -> None:
    source = EXAMPLE.read_text().replace("sure: float = field(default=0.9", "sure: float = field(default=0.3")
    assert change[0] in source
    (tmp_path / "metrics").mkdir()
    source = source.replace("VERSION = 1", "VERSION = 1\nSHARED = np.zeros(2)").replace(*change)
    (tmp_path / "metrics" / "mine.py").write_text(source)
    assert text in broken("mine", tmp_path)[what]


def test_a_share_that_is_0_where_a_mask_shows_every_class_is_tried_with_others(tmp_path: Path) -> None:
    source = EXAMPLE.read_text().replace("np.zeros(2)", "np.zeros(1)")
    body, _ = source.split("        labelled = ")
    body += "        self.sums[0] = 1 - len(set(frame.mask.ravel())) / self.num_classes\n\n"
    body += '    def values(self, sums):\n        return {"confident_errors": float(sums[0])}\n'
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "mine.py").write_text(body)
    assert "is a mean being added?" in broken("mine", tmp_path)["each video twice changes no number"]
