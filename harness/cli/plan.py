"""Commands that only look: `harness list`, `harness plan`. Neither torch nor mlflow is loaded."""

import json
from typing import Annotated

import typer

from harness.cli import completion
from harness.cli.options import Json, Names, Plugins, Preset, Root, Seeds
from harness.cli.parse import folders, make_plan
from harness.common.console import out
from harness.common.errors import UsageError
from harness.common.progress import Progress

Why = Annotated[
    str | None,
    typer.Option(
        metavar="ROW", help="Explain why a row is not done: the nearest finished job and the keys that differ"
    ),
]
Count = Annotated[bool, typer.Option("--count", help="Estimate the cost from FLOPs where no similar job has finished")]
Rate = Annotated[float, typer.Option(metavar="TFLOPS", help="A GPU's speed in TFLOP/s, for --count")]
Memory = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Check whether a training step fits a card (24GB), and which keys help"),
]
Nproc = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Ranks per node, for --count and --memory  [default: as for `run`]"),
]
Power = Annotated[
    bool, typer.Option("--power", help="Show how many seeds it takes to decide each of the paper's gains")
]
CheckData = Annotated[
    bool, typer.Option("--check-data", help="Compute digests of new or changed data files, as a run would")
]


def list_(
    asked: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KIND", help="Only these kinds: experiments, decoders, …", autocompletion=completion.kinds
        ),
    ] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """List experiments, presets, decoders and other plug-ins by name.

    Each name is a file's, shown with the first line of its docstring. To list your own files as well, give
    --plugins DIR (DIR/decoders/mine.py, DIR/encoders/…, DIR/datasets/…, DIR/experiments/…).

    \b
    harness list
    harness list decoders encoders --plugins docs/examples
    """
    from harness.config import plugins as registry

    kinds = [*registry.KINDS, "presets"]
    for kind in asked or []:
        if kind not in kinds:
            raise UsageError(f"unknown kind '{kind}'{registry.suggestion(kind, kinds)}; choose from {', '.join(kinds)}")
    own = folders(plugins)
    heads_of = {each: completion.heads(each, own) for each in asked or kinds}
    if as_json:
        out(json.dumps({"schema": 1, **heads_of}, indent=1))
        return
    for each, heads in heads_of.items():
        if heads:
            out(f"{each}:")
            for name, head in heads.items():
                out(f"  {name:<22}{head}")


def plan(
    experiments: Names,
    preset: Preset = None,
    root: Root = None,
    seeds: Seeds = 1,
    why: Why = None,
    count: Count = False,
    rate: Rate = 100.0,
    memory: Memory = None,
    nproc: Nproc = None,
    power: Power = False,
    check_data: CheckData = False,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Show what a run would do and what is already done, without running anything.

    Prints the setting, each experiment's rows with the paper's numbers, and each job with its fingerprint and state:
    done (and whether its code has changed since), resumable or missing. Also prints what the missing jobs will cost
    where a similar one has finished. Needs neither torch nor the data: data files are not read, files without a digest
    are reported, and --check-data (or --why) computes their digests.

    --power adds how many seeds each gain takes, given the noise measured in finished jobs, or an assumed noise of
    0.5 points between trainings.

    \b
    harness plan ablation_ensemble --preset paper
    harness plan ablation_ensemble train.lr=3e-5 --why decoder_a
    harness plan ablation_ensemble --preset paper --seeds 3 --power
    """
    from harness.cli import plan_text
    from harness.plan import cost
    from harness.plan import memory as memories
    from harness.plan.explain import explain
    from harness.results import power as powers

    if why is not None and as_json:
        raise UsageError("--why prints text; omit --json")
    if rate <= 0:
        raise UsageError(f"--rate {rate:g}: must be greater than 0")
    limit = None if memory is None else memories.parse(memory)  # wrong ones are refused before anything is counted
    planned, settings = make_plan(experiments, seeds, preset, root, plugins, compute=check_data or why is not None)
    if why is not None:
        out(explain(planned, why))
        return
    on_node = nproc or settings.nproc
    ranks = on_node and on_node * (settings.nodes or 1)
    costs = cost.costs(planned, cost.count(planned) if count else None, rate, ranks)
    needs: list[memories.Need] = []
    if limit is not None:
        with Progress() as progress:
            needs = memories.needs(planned, limit, ranks, progress)
    powered = planned.experiments if power else ()
    gains = [(experiment, powers.of_plan(planned, experiment, costs)) for experiment in powered]
    if as_json:
        shown = {**plan_text.plan_json(planned), "cost": cost.cost_json(costs)}
        if limit is not None:
            shown["memory"] = memories.needs_json(needs, limit)
        if power:
            shown["power"] = [
                {"experiment": each.name, **need.json} for each, gain_needs in gains for need in gain_needs
            ]
        out(json.dumps(shown, indent=1))
        return
    lines = [plan_text.plan_text(planned), *cost.cost_lines(costs)]
    if limit is not None:
        lines += memories.lines(needs, limit, str(memory))
    for experiment, gain_needs in gains:
        lines += ["", f"Seeds  [{experiment.name}]", *powers.lines(gain_needs, experiment, seeds)]
    out("\n".join(lines))
