"""A study's report: a finding that is not fooled by noise, tables, figures; from the trials alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.config.compose import compose
from harness.plan import study as studies
from harness.plan.search_space import Whole
from harness.plan.study import Study, Trial
from harness.report import html_study
from harness.results import rows as results
from harness.results.figure import render as drawn
from harness.results.rows import Context
from harness.results.table import Report, report_markdown, to_csv, write
from reports import search
from reports.search.finding import Confirmation, find, sentence

M, SCHEDULE = "decoder.decoder_a.momentum", "decoder.decoder_a.schedule"


@pytest.fixture(scope="module")
def study() -> Study:
    return studies.make("momentum", compose("demo"), Path("nowhere"))


@pytest.fixture(scope="module")
def context(study: Study) -> Context:
    (experiment,) = study.plan(study.default, 0, Path("nowhere")).experiments
    return results.context(experiment, ["harness", "search", "momentum"])


def default(seed: int, value: float | None) -> Trial:
    state = "complete" if value is not None else "running"
    return Trial(seed, state, {M: 0.9, SCHEDULE: "poly"}, value, facts={"seed": seed, "default": True})


def trial(number: int, momentum: float, value: float, state: str = "complete", schedule: str = "fixed") -> Trial:
    facts = {"step": 140 if state == "complete" else 16, "steps": 140, "reason": "the loss is not finite"}
    return Trial(number, state, {M: momentum, SCHEDULE: schedule}, value, {1: value / 2}, facts)


def failed(seed: int) -> Trial:
    return replace(default(seed, None), state="failed")


DEFAULTS = [default(0, 40.0), default(1, 41.0), default(2, 42.0)]  # 41 ± 1


def repeated(number: int, momentum: float, seed: int, value: float) -> Trial:
    run = trial(number, momentum, value)
    return replace(run, facts={**run.facts, "seed": seed, "repeated": True})


def thrice(*values: float, number: int = 3) -> list[Trial]:
    """A setting under the default's three seeds."""
    first, *others = values
    more = [repeated(10 * number + seed, 0.1, seed, value) for seed, value in enumerate(others, 1)]
    return [trial(number, 0.1, first), *more]


@pytest.mark.parametrize(
    ("trials", "told"),
    [
        ([], "No trial is complete yet"),
        (DEFAULTS[:1], "No trial besides the default is complete yet; the default (m=0.9 poly): 40.00 over 1 seed"),
        ([default(0, None), trial(3, 0.1, 44)], "Best so far: m=0.1 fixed, 44.00 mIoU on dev; the default is not"),
        (
            [*DEFAULTS, trial(3, 0.1, 40.5)],  # the default's mean is 41, but 40 under the seed of the trial
            "Best: m=0.1 fixed, +0.50 over the default (m=0.9 poly) on seed 0 (40.50 and 40.00 mIoU on dev): 1 shared",
        ),
        (
            [*DEFAULTS, trial(3, 0.1, 39.5)],
            "The best of 1 other setting does not beat the default (m=0.9 poly): m=0.1 fixed, −0.50 on seed 0",
        ),
        ([*DEFAULTS, *thrice(41, 42, 43)], "+1.00 ± 0.00 [+1.00, +1.00] over the default (m=0.9 poly) over 3 seeds"),
        ([*DEFAULTS, *thrice(41, 41.5, 43.5)], "+1.00 ± 0.50 [−0.24, +2.24] over the default"),
        ([*DEFAULTS, *thrice(41, 41.5, 43.5)], "not distinguishable, the best of 1 equal setting leads by up to 1.24"),
        ([*DEFAULTS, *thrice(41, 42.1, 43.2)], "more than noise, the best of 1 equal setting leads by up to 0.25"),
        ([*DEFAULTS, *thrice(39, 39.9, 40.8)], "−1.10 ± 0.10 [−1.35, −0.85] over 3 seeds (39.90 and 41.00 mIoU on dev"),
        ([*DEFAULTS, *thrice(41, 41.5)], "+0.75 ± 0.35 over the default (m=0.9 poly) over 2 seeds"),
        ([failed(0), default(1, 41), trial(3, 0.1, 44)], "44.00 mIoU on dev; it shares no seed with the default"),
        ([failed(0), failed(1), trial(3, 0.1, 44)], "Best so far: m=0.1 fixed, 44.00 mIoU on dev; the default failed"),
        ([failed(0), default(1, None), trial(3, 0.1, 44)], "44.00 mIoU on dev; the default is not complete yet"),
        ([failed(0), failed(1)], "No trial is complete yet; the default failed"),
        ([DEFAULTS[0], trial(3, 0.1, 49)], "+9.00 over the default (m=0.9 poly) on seed 0 (49.00 and 40.00 mIoU on"),
    ],
)
def test_the_finding(study: Study, trials: list[Trial], told: str) -> None:
    assert told in sentence(study, find(study, trials))


def test_what_beats_the_default_on_its_own_seed_is_not_called_worse(study: Study) -> None:
    """The figures of a study whose candidates ran on seed 0 alone, where the default is far below its mean."""
    own = [default(seed, value) for seed, value in enumerate((7.51, 16.06, 17.08))]
    trials = [*own, trial(3, 0.0099, 7.94), trial(4, 0.1, 7.82), trial(5, 0.2, 7.61)]
    finding = find(study, trials)
    assert finding.lead == pytest.approx(0.43)
    assert finding.distinguishable is None
    assert sentence(study, finding).startswith("Best: m=0.0099 fixed, +0.43 over the default (m=0.9 poly) on seed 0")


def test_a_repeated_setting_goes_before_one_that_leads_on_a_single_seed(study: Study) -> None:
    finding = find(study, [*DEFAULTS, *thrice(41, 42, 42.5), trial(4, 0.2, 44)])
    assert finding.best is not None
    assert (finding.best.number, len(finding.differences)) == (3, 3)


def test_the_more_are_tried_the_larger_a_lead_must_be(study: Study) -> None:
    few = [*DEFAULTS, *thrice(41, 42.1, 43.2)]
    many = [*few, *(trial(number, 0.2 + number / 100, 30, "pruned") for number in range(4, 24))]
    assert find(study, few).distinguishable
    more, less = find(study, many).noise, find(study, few).noise
    assert more is not None
    assert less is not None
    assert more > 2 * less
    assert "the best of 21 equal settings leads by up to" in sentence(study, find(study, many))


def test_a_pruned_trials_last_look_is_no_best(study: Study) -> None:
    found = find(study, [*DEFAULTS, trial(3, 0.1, 41.5), trial(4, 0.2, 99.0, "pruned")])
    assert found.best is not None
    assert found.best.number == 3


ALL = [
    *DEFAULTS,
    *(trial(n, 0.005 * 1.5**n, 41.2 + n / 10, schedule=("fixed", "poly")[n % 2]) for n in range(3, 15)),
    trial(15, 0.3, 20.0, "pruned"),
    trial(16, 0.31, 0.0, "failed"),
]
STATES: dict[str, Sequence[Trial]] = {
    "nothing": [],
    "the default alone": DEFAULTS,
    "nothing complete": [default(0, None), trial(1, 0.1, 3.0, "pruned")],
    "all": ALL,
}


@pytest.mark.parametrize("name", STATES)
def test_any_state_of_a_study_renders(name: str, study: Study, context: Context, tmp_path: Path) -> None:
    output = search.render(study, STATES[name], {M: 0.8, SCHEDULE: 0.2} if name == "all" else {}, None, context)
    paths = write(output, tmp_path)
    assert all(path.stat().st_size for path in paths)
    text = report_markdown(output)
    assert not any(word in text for word in ("None", "nan"))
    assert len(to_csv(output.appendix["trials"]).splitlines()) - 1 == len(STATES[name])
    assert "not the paper's setting" in output.tables["best"].title


def output(study: Study, context: Context, **confirmed: Any) -> Report:
    confirmation = Confirmation(**confirmed) if confirmed else None
    return search.render(study, ALL, {M: 0.8, SCHEDULE: 0.2}, confirmation, context)


def test_it_begins_with_the_finding_and_holds_the_ten_best(study: Study, context: Context) -> None:
    report = output(study, context)
    assert report_markdown(report).splitlines()[0].lstrip("# ").startswith("Best: m=")
    rows = report.tables["best"].rows
    assert len(rows) == 11  # ten, and the default, which is not among them
    assert [row[0] for row in rows][:2] == ["trial 14", "trial 13"]
    assert sum(row[0].startswith("default") for row in rows) == 1
    notes = "\n".join(report.notes)
    assert "17 trials ended (15 complete, 1 pruned, 1 failed)" in notes
    assert "Pruning saved " in notes
    assert "Trial 16 (m=0.31 fixed) failed: the loss is not finite" in notes
    assert "val was not used" in notes


def test_figures_are_drawn_and_described(study: Study, context: Context) -> None:
    report = output(study, context)
    assert set(report.figures) == {"history", "curve_m", "importance"}
    for figure in report.figures.values():
        assert figure.alt
        forms = drawn(figure, svg=True)
        assert forms["png"].startswith(b"\x89PNG")
        assert b"<svg" in forms["svg"]
    assert "fixed: best" in report.figures["curve_m"].alt
    assert "+2.60 on seed 0 at m" in report.figures["curve_m"].alt  # 42.6 less the default's 40 on that seed
    assert "seed 0 rises from 40.00 to 42.60" in report.figures["history"].alt


def test_the_confirmation_comes_first(study: Study, context: Context) -> None:
    facts = {"best": "m=0.1 fixed", "trial": 3, "seeds": 3, "ahead": 2, "miou": 41.2, "default": 41.0, "gain": 0.2}
    report = output(study, context, **facts, sd=0.4, low=None, high=None)
    told = "m=0.1 fixed 41.20, the default 41.00; paired difference +0.20 ± 0.40, ahead in 2 of 3 seeds"
    assert told in report.notes[0]
    assert "--confirm" in output(study, context).notes[0]
    nothing = output(study, context, **{**facts, "gain": -0.001}, sd=0.4, low=-0.5, high=0.001)
    assert "paired difference 0.00 ± 0.40 [−0.50, 0.00]" in nothing.notes[0]


def test_a_confirmation_of_another_trial_is_none_of_the_best(study: Study, context: Context) -> None:
    facts = {"best": "m=0.1 fixed", "seeds": 3, "ahead": 2, "miou": 41.2, "default": 41.0, "gain": 0.2}
    of_another, of_the_best = (
        output(study, context, trial=3, **facts).notes,
        output(study, context, trial=14, **facts).notes,
    )
    assert of_another[0].startswith("Confirmed on val")
    assert "biased upwards: trial 14 was not yet the best at that time; --confirm S" in of_another[1]
    assert not any("biased" in note for note in of_the_best)


@pytest.mark.parametrize("name", STATES)
def test_a_figures_text_is_sentences(name: str, study: Study, context: Context) -> None:
    for figure in search.render(study, STATES[name], {}, None, context).figures.values():
        assert figure.alt[0].isalnum()
        assert figure.alt.endswith(".")
        assert ".." not in figure.alt


def test_keys_of_the_same_last_word_have_columns_of_their_own(context: Context) -> None:
    keys = ("decoder.decoder_a.channels", "decoder.decoder_b.channels")
    one = studies.make("momentum", compose("demo"), Path("nowhere"))
    more = {**one.space, **{key: Whole(8, 512, log=True) for key in keys}}
    wide = replace(one, space=more)
    some = [replace(t, params={**t.params, **dict.fromkeys(keys, 64)}) for t in DEFAULTS]
    columns = search.render(wide, some, {}, None, context).tables["best"].columns
    assert columns[1:5] == ("m", "schedule", "decoder_a.channels", "decoder_b.channels")
    assert wide.label(some[0].params) == "m=0.9 poly decoder_a.channels=64 decoder_b.channels=64"


def test_scored_on_val_is_named(context: Context) -> None:
    on_val = studies.make("momentum", compose("demo"), Path("nowhere"), "val")
    assert any("split=val" in note for note in search.render(on_val, ALL, {}, None, context).notes)


def test_importance_is_refused_for_few_settings_and_for_what_never_varied(study: Study, context: Context) -> None:
    def told(trials: Sequence[Trial], importance: dict[str, float]) -> str:
        (line,) = [
            note for note in search.render(study, trials, importance, None, context).notes if "mportance" in note
        ]
        return line

    assert (
        told([*DEFAULTS, trial(3, 0.1, 40)], {}) == "No importance of keys: 2 settings complete on seed 0; 10 needed."
    )
    same = [trial(n, 0.01 * n, 40 + n, schedule="poly") for n in range(3, 15)]
    assert told([*DEFAULTS, *same], {}) == "No importance of keys: never varied: schedule."
    assert "importance" not in search.render(study, [*DEFAULTS, *same], {}, None, context).figures
    assert told(ALL, {M: 0.8, SCHEDULE: 0.2}) == "Importance (PED-ANOVA, 13 settings on seed 0): m 0.80, schedule 0.20."


def test_no_setting_is_bold_without_a_lead_beyond_noise(study: Study, context: Context) -> None:
    def bold(trials: Sequence[Trial]) -> frozenset[tuple[int, int]]:
        return search.render(study, trials, {}, None, context).tables["best"].bold

    assert bold([*DEFAULTS, trial(3, 0.1, 60)]) == frozenset()
    assert bold([*DEFAULTS, *thrice(41, 42.1, 43.2)]) == {(0, 0)}


def test_a_study_has_a_page_whose_trials_lead_to_their_runs(study: Study, context: Context, tmp_path: Path) -> None:
    trials = [*DEFAULTS, *thrice(41, 42, 43)]
    report = search.render(study, trials, {}, None, replace(context, title="<b>m</b>"))
    write(report, tmp_path)
    pages = {str(number): f"http://mlflow/#/experiments/1/runs/r{number}" for number in (0, 3)}
    text = html_study.write(report, context, pages, tmp_path).read_text()
    assert report.title.replace("<", "&lt;") in text
    assert text.count('<a href="http://mlflow/#/experiments/1/runs/r3">') == 2  # among the best and in every trial
    assert text.count('<a href="http://mlflow/#/experiments/1/runs/r0">') == 1
    assert "runs/r1" not in text
    assert text.count("<img") == len(report.figures) > 0
    assert "&lt;b&gt;m&lt;/b&gt;" in text
    assert "harness search momentum" in text
