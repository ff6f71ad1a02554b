from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.results import metrics
from harness.results.frame import to_frame
from harness.results.rows import CellResult, Context
from harness.results.table import Table
from reports.comparison import render, signed

NAME = "ablation_ensemble"
REASONS = ("data: synthetic", "backbone: tiny BEiT", "schedule: 12 epochs", "crop 64 instead of 512")


def cell(
    name: str, order: int, mious: list[float | None], over: str | None = "upernet", **rest: Any
) -> list[CellResult]:
    where = {"order": order, "baseline": over, "backbone": "BEiT-Large", "epochs": 240, **rest}
    return [
        CellResult(NAME, name, name.title(), seed, "missing" if miou is None else "done", miou=miou, **where)
        for seed, miou in enumerate(mious)
    ]


def table(rows: list[CellResult], comparable: bool = True, reasons: tuple[str, ...] = REASONS) -> Table:
    context = Context(NAME, "Table 1 – Ablation", "paper", "vspw", comparable, () if comparable else reasons)
    return render(to_frame(rows), context).tables[NAME]


def measured(name: str, order: int, right: int, units: int = 24, seeds: int = 3, **rest: Any) -> list[CellResult]:
    """A cell with matrices by video: `right` of 1000 pixels, more or less by video."""
    rows = []
    for seed in range(seeds):
        noise = np.random.default_rng(seed).integers(-50, 50, units)
        videos = {
            f"v{index:02}": np.array([[right + n, 1000 - right - n], [1000 - right - n, right + n]])
            for index, n in enumerate(noise.tolist())
        }
        miou = 100 * metrics.miou(np.sum(list(videos.values()), axis=0))
        over = "upernet" if order else None
        known = {"order": order, "baseline": over, "members": (f"{name}-{seed}",), "videos": videos, **rest}
        rows.append(CellResult(NAME, name, name.title(), seed, "done", miou=miou, **known))
    return rows


def table_1(**rest: Any) -> list[CellResult]:
    return [
        *measured("upernet", 0, 700, **rest),
        *measured("decoder_a", 1, 707, **rest),
        *measured("decoder_ab", 2, 750, **rest),
    ]


def test_an_interval_stands_in_the_cell_of_its_number() -> None:
    output = table(table_1())
    assert output.columns[-4:] == ("ours [95% interval]", "our gain [95% interval]", "Verdict", "Seeds")
    for header, raw, sign in (
        ("ours [95% interval]", ("miou", "sd", "low", "high"), ""),
        ("our gain [95% interval]", ("gain", "gain_sd", "gain_low", "gain_high"), "+"),
    ):
        mean, sd, low, high = (output.raw[1][key] for key in raw)
        text = f"{mean:{sign}.2f} ± {sd:.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"
        assert column(output, header)[1] == text
    assert column(output, "our gain [95% interval]")[0] == "–"
    assert "[ , ] of mIoU and gain: 95% interval of seeds and videos; 24 videos." in output.notes
    assert not any("so no verdict" in note for note in output.notes)


def test_a_verdict_names_the_row_that_its_claim_is_over() -> None:
    output = table(table_1())
    assert column(output, "Verdict") == ["–", "same sign", "same sign (over Decoder_A)"]
    (ab,) = [note for note in output.notes if note.startswith("Decoder_Ab over Decoder_A: ours +")]
    assert "the paper's +0.88 (Table 1, rows 2 and 4, difference): same sign." in ab
    assert [row["verdict"] for row in output.raw] == [None, "same sign", "same sign"]


def rules(output: Table) -> list[str]:
    """The notes on how verdicts are reached and what intervals apply to."""
    return [note for note in output.notes if note.startswith(("Verdicts on a gain", "“seeds", "“videos"))]


def test_the_rules_of_verdicts_and_intervals_that_occur_stand_under_the_table() -> None:
    claimed = "Verdicts on a gain that the paper claims, by our 95% interval: "
    everywhere = "“seeds and videos”: applies to new trainings and new videos."
    assert rules(table(table_1())) == [f"{claimed}same sign: the interval excludes 0 on the paper's side. {everywhere}"]
    (here,) = rules(table(table_1(units=4)))
    assert here.startswith("“seeds, these videos”: applies to new trainings, but these videos only (fewer than 20")
    (pair,) = rules(table(table_1(seeds=1)))
    assert pair.startswith(f"{claimed}this pair of checkpoints only: a gain between trainings with one seed. “videos")
    (elsewhere,) = rules(table(table_1(), comparable=False))
    assert elsewhere.startswith(f"{claimed}not comparable: our data, backbone, schedule or BN group differs")
    assert rules(table(measured("upernet", 0, 700))) == []


def test_few_units_leave_no_column_but_the_reason() -> None:
    recording = {f"v{index:02}": "0016E5" for index in range(4)}
    output = table(table_1(units=4, unit_of=recording, seeds=2))
    assert not any("interval" in header or header == "Verdict" for header in output.columns)
    why = "4 videos of 1 recording: fewer than 20 videos (or recordings) and fewer than 3 seeds"
    assert f"No interval, so no verdict ({why})." in output.notes
    seeds = table(table_1(units=4, unit_of=recording))
    assert "our gain [95% interval]" in seeds.columns
    assert "Verdict" not in seeds.columns
    assert "[ , ] of mIoU and gain: 95% interval of seeds, these videos; 4 videos of 1 recording." in seeds.notes


def test_a_row_without_an_interval_among_others_is_named() -> None:
    output = table(measured("upernet", 0, 700) + cell("decoder_a", 1, [61.5, 61.0, 62.0]))
    assert column(output, "ours [95% interval]")[1] == "61.50 ± 0.50"
    assert "Decoder_A: no interval, so no verdict (confusion matrices per video are not available)." in output.notes


def test_one_seed_is_this_pair_only_and_another_setting_is_not_comparable() -> None:
    pair = table(table_1(seeds=1))
    assert column(pair, "Verdict")[1] == "this pair of checkpoints only"
    assert any(note.endswith("this pair of checkpoints only (one seed).") for note in pair.notes)
    assert "[ , ] of gain: 95% interval of videos, this pair of checkpoints; 24 videos." in pair.notes
    assert "[ , ] of mIoU: 95% interval of videos, these checkpoints; 24 videos." in pair.notes
    elsewhere = table(table_1(), comparable=False)
    assert "Verdict" not in elsewhere.columns  # it would say the same in every row
    assert [row["verdict"] for row in elsewhere.raw] == [None, "not comparable", "not comparable"]
    assert any(note.startswith("Decoder_A over Upernet:") and "not comparable" in note for note in elsewhere.notes)


def test_claims_are_read_together_and_what_they_need_is_said() -> None:
    output = table(table_1())
    (together,) = [note for note in output.notes if "taken together" in note]
    assert together == (
        "All 2 claims taken together (Holm, at most 5% risk of any false one): 0 is excluded for Decoder_A over "
        "Upernet, Decoder_Ab over Decoder_A."
    )
    (smallest,) = [
        note for note in output.notes if note.startswith("Smallest gain that 80% of such tables would detect: ")
    ]
    assert smallest.count(" over Upernet 0.") == 2  # A and A+B, which are each some points
    pair = table(table_1(seeds=1))
    assert not any("taken together" in note or note.startswith("Smallest") for note in pair.notes)
    needed = (
        "Decoder_A over Upernet: to decide +1.22 at an assumed noise (seeds ±0.71, videos ±0.01) in 80% of cases: 5"
    )
    assert any(note.startswith(needed) for note in pair.notes)
    (noise,) = [note for note in output.notes if note.startswith("Decoder_A over Upernet: ours")]
    row = output.raw[1]
    assert f" (seeds ±{row['gain_sd_seeds']:.2f}, videos ±{row['gain_sd_units']:.2f}), the paper's" in noise


def test_evaluations_of_the_same_checkpoints_speak_of_them() -> None:
    rows = [
        replace(row, experiment="ablation_stages", members=("a",), backbone="BEiT-Large")
        for row in (*measured("stage0", 0, 700, seeds=1), *measured("stage1", 1, 702, seeds=1))
    ]
    rows = [replace(row, baseline="stage0" if row.cell == "stage1" else None) for row in rows]
    output = render(to_frame(rows), Context("ablation_stages", "Table 2", "paper", "vspw", comparable=True))
    shown = output.tables["ablation_stages"]
    assert column(shown, "Verdict") == ["–", "same sign (videos, these checkpoints)"]
    assert "[ , ] of mIoU and gain: 95% interval of videos, these checkpoints; 24 videos." in shown.notes


def column(output: Table, header: str) -> list[str]:
    return [row[output.columns.index(header)] for row in output.rows]


def test_papers_columns_stand_beside_ours_at_the_papers_setting() -> None:
    output = table(cell("upernet", 0, [60.0], None) + cell("decoder_a", 1, [61.5]))
    headers = ("Method", "Backbone", "Epochs", "paper mIoU", "paper gain", "ours", "our gain")
    assert output.columns == headers
    assert output.title == "Table 1 – Ablation"
    assert output.rows == (
        ("Upernet", "BEiT-Large", "240", "60.02", "–", "60.00", "–"),
        ("Decoder_A", "BEiT-Large", "240", "61.24", "+1.22", "61.50", "+1.50"),
    )


def test_elsewhere_the_title_says_so_and_the_papers_columns_stand_last() -> None:
    output = table(cell("upernet", 0, [60.0], None) + cell("decoder_a", 1, [61.5]), comparable=False)
    assert output.title == "Table 1 – Ablation (not the paper's setting)"
    assert output.columns[3:5] == ("mIoU", "gain")
    assert [header.startswith("paper") for header in output.columns] == [False] * 5 + [True] * 2
    assert all("VSPW, BEiT-L" in header for header in output.columns[5:])
    assert any("cannot be compared" in note and "crop 64 instead of 512" in note for note in output.notes)


def test_missing_and_failed_cells_keep_their_rows_and_reasons() -> None:
    failed = [CellResult(NAME, "decoder_a", "A", 0, "failed", "out of memory", order=1, baseline="upernet")]
    absent = [CellResult(NAME, "decoder_b", "B", 0, "missing", "not run", order=2, baseline="upernet")]
    output = table(cell("upernet", 0, [60.0], None) + failed + absent)
    assert column(output, "ours") == ["60.00", "failed", "missing"]
    assert column(output, "our gain") == ["–", "–", "–"]
    assert "A: failed: out of memory." in output.notes
    assert "B: missing: not run." in output.notes


def test_several_seeds_are_mean_and_deviation_with_their_number() -> None:
    output = table(cell("upernet", 0, [60.0, 62.0], None) + cell("decoder_a", 1, [61.0, 64.0, None]))
    assert column(output, "ours") == ["61.00 ± 1.41", "62.50 ± 2.12"]
    assert column(output, "our gain") == ["–", "+1.50 ± 0.71"]
    assert column(output, "Seeds") == ["2", "2 of 3"]
    assert not any(note.lower().startswith("one seed") for note in output.notes)


def test_one_seed_is_a_plain_number_and_says_so() -> None:
    output = table(cell("upernet", 0, [60.0], None))
    assert "Seeds" not in output.columns
    assert "Only one seed, so the noise between seeds is unknown." in output.notes
    mixed = table(cell("upernet", 0, [60.0], None) + cell("decoder_a", 1, [61.0, 62.0]))
    assert "Decoder_A" not in next(note for note in mixed.notes if "one seed" in note)


def test_best_of_ours_is_bold() -> None:
    output = table(
        cell("upernet", 0, [59.0, 61.0], None)
        + cell("decoder_a", 1, [61.001, 61.001])
        + cell("decoder_b", 2, [61.0, 61.0])
    )
    ours = output.columns.index("ours")
    assert output.bold == {(1, ours), (2, ours)}
    assert table(cell("upernet", 0, [60.0], None)).bold == frozenset()


def test_no_winner_is_bold_with_one_seed() -> None:
    assert table(cell("upernet", 0, [60.0], None) + cell("decoder_a", 1, [70.0])).bold == frozenset()
    assert table(cell("upernet", 0, [60.0, 60.0], None) + cell("decoder_a", 1, [70.0])).bold == frozenset()


def test_a_mean_over_a_part_of_the_seeds_is_no_candidate_for_the_best() -> None:
    rows = cell("upernet", 0, [60.0, 60.0], None) + cell("decoder_a", 1, [70.0, None])
    output = table(rows + cell("decoder_b", 2, [61.0, 61.0]))
    assert {row for row, _ in output.bold} == {2}


def test_an_experiment_that_the_paper_does_not_have_shows_no_paper_columns() -> None:
    output = render(
        to_frame([CellResult("mine", "m", "m = 0.5", 0, "done", miou=3.0)]),
        Context("mine", "Mine", "demo", "synthetic", comparable=False, reasons=REASONS),
    ).tables["mine"]
    assert output.columns == ("Method", "Backbone", "Epochs", "mIoU")
    assert not any("paper's columns" in note for note in output.notes)


def test_changed_code_and_provenance_are_noted() -> None:
    rows = cell("upernet", 0, [60.0], None, commit="a" * 12, dirty=True, precision="fp16", changed="train.py")
    output = table(rows)
    assert "Upernet: code changed since it ran (train.py)." in output.notes
    assert f"Ours: commit {'a' * 12}; precision fp16; with uncommitted changes." in output.notes


def test_only_the_contexts_experiment_is_rendered() -> None:
    frame = to_frame([*cell("upernet", 0, [60.0], None), CellResult("other", "x", "X", 0)])
    output = render(frame, Context(NAME, "T", "demo", "vspw", comparable=True)).tables
    assert list(output) == [NAME]
    assert [row[0] for row in output[NAME].rows] == ["Upernet"]


def test_raw_values_are_not_rounded() -> None:
    output = table(cell("upernet", 0, [60.123456], None))
    assert output.raw[0]["miou"] == 60.123456
    assert pd.notna(output.raw[0]["paper_miou"])


@pytest.mark.parametrize(("value", "text"), [(1.224, "+1.22"), (-0.06, "−0.06"), (-0.001, "0.00"), (None, "–")])
def test_signs(value: float | None, text: str) -> None:
    assert signed(value) == text


def headline(rows: list[CellResult], **more: Any) -> str:
    return render(to_frame(rows), Context(NAME, "Table 1", "paper", "synthetic", True, **more)).headline


def test_the_headline_names_what_differs_and_what_does_not() -> None:
    told = headline(table_1())
    output = table(table_1())
    gain = column(output, "our gain [95% interval]")
    assert told == (f"Above Upernet: Decoder_A ({gain[1]}), Decoder_Ab ({gain[2]}); synthetic videos, 3 seeds.")
    equal = measured("upernet", 0, 700, units=4) + cell("decoder_a", 1, [50.0])
    assert headline(equal).startswith("Over Upernet, noise between seeds unknown: Decoder_A ")
    assert headline(measured("upernet", 0, 700)) == ""


def test_the_headline_calls_nothing_different_within_the_noise_of_seeds() -> None:
    def lucky(name: str, order: int, rights: tuple[int, ...]) -> list[CellResult]:
        return [measured(name, order, right, units=4, seeds=3)[seed] for seed, right in enumerate(rights)]

    told = headline(lucky("upernet", 0, (700, 720, 740)) + lucky("decoder_a", 1, (740, 700, 730)))
    assert told.startswith("No row differs from Upernet: Decoder_A ")
    assert told.count("[") == 1


def test_one_seed_says_nothing_of_methods_in_the_headline() -> None:
    told = headline(table_1(seeds=1))
    assert told.startswith("Over Upernet, noise between seeds unknown: Decoder_A (+")
    assert told.endswith("; synthetic videos, 1 seed.")
