"""What a frame costs: a table of its own, columns of the main one, JSON, a figure; dashes where it is not known."""

from dataclasses import replace

import finished_root
import pytest

from harness.common.errors import UsageError
from harness.config.compose import compose
from harness.launch import report_from_root
from harness.results import rows, rows_json
from harness.results.evidence import FrameCost, frame_cost
from harness.results.frame import to_frame
from reports import _cost, comparison


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    made = finished_root.make(tmp_path_factory.mktemp("root"), videos=5)
    review = report_from_root.review(made, made.experiments[0], (), None)
    return review.results, review.context


def job(frames, seconds, **more):
    return {"cost": {"frames": frames, "seconds": seconds, "flops": 3_000_000_000, "parameters": 2_500_000}, **more}


def test_seeds_share_a_model_and_have_a_pace_of_their_own():
    seeds = [job(30, 3.0, peak=2**30, device="cpu"), job(30, 1.0, peak=3 * 2**30, device="cpu")]
    cost = frame_cost(seeds)
    assert cost == FrameCost(2_500_000, 3_000_000_000, 20.0, 3 * 2**30, ("cpu",))
    assert [_cost.text(key, cost) for key in _cost.COLUMNS] == ["2.50", "3", "20", "3.00"]
    assert frame_cost([{"peak": 2**40}]) == FrameCost()
    assert {_cost.text(key, FrameCost()) for key in _cost.COLUMNS} == {"–"}


def test_an_appendix_has_every_row(finished):
    results, context = finished
    output = comparison.render(to_frame(results), context).appendix["ablation_ensemble_cost"]
    assert output.columns == ("Method", "Parameters (M)", "GFLOPs per frame", "Frames/s", "Memory (GiB)", "Device")
    assert output.rows[0] == ("UPerNet", "0.44", "0.08", "96", "–", "cpu")
    assert output.rows[-1] == ("Decoder A+B", "0.89", "0.16", "48", "–", "cpu")
    assert output.raw[-1]["flops"] == 160_000_000


def test_the_main_table_has_the_columns_that_are_asked_for(finished):
    results, context = finished
    plain = comparison.render(to_frame(results), context).tables["ablation_ensemble"]
    more = replace(context, columns=("fps", "parameters"))
    output = comparison.render(to_frame(results), more).tables["ablation_ensemble"]
    assert output.columns == (*plain.columns, "Frames/s", "Parameters (M)")
    assert output.rows[0] == (*plain.rows[0], "96", "0.44")


def test_json_and_the_figure_have_it(finished):
    results, context = finished
    first = rows_json.experiment_json(rows.aggregate(results, context), context)["rows"][0]
    assert first["cost"] == vars(FrameCost(444_136, 80_000_000, 96.0, None, ("cpu",)))
    figure = comparison.render(to_frame(results), context).figures["cost"]
    assert "Decoder A+B" in figure.alt
    assert "at 0.16" in figure.alt


def test_results_without_a_cost_have_no_table_and_no_figure(finished):
    results, context = finished
    jobs = tuple({key: value for key, value in job.items() if key != "cost"} for job in context.evidence.jobs)
    output = comparison.render(to_frame(results), replace(context, evidence=replace(context.evidence, jobs=jobs)))
    assert "ablation_ensemble_cost" not in output.appendix
    assert "cost" not in output.figures


def test_a_column_that_is_not_there_is_named():
    assert compose("demo", ["report.columns=[fps,memory]"])["report"]["columns"] == ("fps", "memory")
    with pytest.raises(UsageError, match=r"report\.columns=speed: not one of parameters, gflops, fps, memory"):
        compose("demo", ["report.columns=[fps,speed]"])
