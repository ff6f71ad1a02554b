"""Table 2's own columns and sentences, and a number of the paper that nobody can check."""

from typing import Any

from harness.results.frame import to_frame
from harness.results.rows import CellResult, Context
from reports import comparison, stages


def row(experiment: str, name: str, order: int, **rest: Any) -> CellResult:
    known = {"status": "done", "miou": 60.0 + order, "backbone": "BEiT-Large", "epochs": 240, "order": order}
    return CellResult(experiment, name, seed=0, **{"label": name, "method": "Decoder A", **known, **rest})


def test_table_2_has_its_stages_what_they_moved_and_why_so_little() -> None:
    name = "ablation_stages"
    cells = [
        row(name, "stage0", 0, stage="stage0"),
        row(name, "stage1", 1, stage="stage1", baseline="stage0", moved=0.126, exited=12.5),
        row(name, "truth", 2, stage="truth", baseline="stage0", moved=3.0),
        row(name, "score_CFFM", 3, method="CFFM", label="CFFM (masks)"),
    ]
    output = stages.render(to_frame(cells), Context(name, "Table 2", "paper", "vspw", comparable=True)).tables[name]
    place = {header: index for index, header in enumerate(output.columns)}
    columns = {header: [line[at] for line in output.rows] for header, at in place.items()}
    assert "Epochs" not in columns
    assert columns["Method"] == ["Decoder A", "Decoder A", "Decoder A", "CFFM (masks)"]
    assert columns["Inference Stage"] == ["stage0", "stage1", "P = ground truth", "–"]
    assert columns["paper mIoU"] == ["61.24", "61.43", "–", "–"]
    assert columns["our gain"] == ["–", "+1.00", "+2.00", "–"]
    assert columns["changed"] == ["–", "0.13 %", "3.00 %", "–"]
    assert columns["early exit"] == ["–", "12.50 %", "–", "–"]
    assert output.notes[:2] == (stages.WHY, stages.COLUMNS)


def test_the_number_of_the_test_server_is_printed_as_not_checkable() -> None:
    name = "final_framework"
    cells = [row(name, "decoder_ab", 0), row(name, "test", 1, status="unlabelled", miou=None, reason="packed")]
    output = comparison.render(to_frame(cells), Context(name, "Final", "paper", "vspw", comparable=True)).tables[name]
    assert any("57.44" in note and "cannot be checked here" in note for note in output.notes)


def test_rows_of_others_masks_raise_no_footnote_of_provenance() -> None:
    name = "ablation_ensemble"
    cells = [row(name, "upernet", 0, commit="abc", device="H100"), row(name, "score_CFFM", 1)]
    output = comparison.render(to_frame(cells), Context(name, "T", "paper", "vspw", comparable=True)).tables[name]
    assert not any("differ" in note for note in output.notes)
    cells.append(row(name, "decoder_a", 2, commit="abc, def", device="H100"))
    output = comparison.render(to_frame(cells), Context(name, "T", "paper", "vspw", comparable=True)).tables[name]
    assert any(note.startswith("Rows differ in commit") and "abc, def: decoder_a" in note for note in output.notes)


def test_rows_of_other_precision_or_bn_group_have_a_footnote() -> None:
    name = "ablation_ensemble"
    cells = [
        row(name, "upernet", 0, precision="fp32", bn_group=16),
        row(name, "decoder_a", 1, precision="bf16", bn_group=8),
    ]
    output = comparison.render(to_frame(cells), Context(name, "T", "paper", "vspw", comparable=True)).tables[name]
    notes = [note for note in output.notes if note.startswith("Rows differ in")]
    assert [note.split(",")[0] for note in notes] == ["Rows differ in precision", "Rows differ in BN group"]
    assert "16: upernet (seed 0); 8: decoder_a (seed 0)" in notes[1]
