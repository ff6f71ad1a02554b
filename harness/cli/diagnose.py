"""Commands that examine: `harness check` a plug-in, `harness doctor` the machine."""

import json
import logging
from typing import Annotated

import typer

from harness.cli import completion
from harness.cli.options import Json, Plugins, Preset, Root, Seeds
from harness.cli.parse import folders, make_plan, redacted
from harness.common.console import out
from harness.common.errors import UnfitError

log = logging.getLogger(__name__)


def check(
    plugin: Annotated[
        str,
        typer.Argument(
            metavar="PLUGIN",
            help="A decoder, encoder, data set or metric by name, or the path of its file",
            autocompletion=completion.of_kinds("decoders", "encoders", "datasets", "metrics"),
        ),
    ],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="FIELD=VALUE", help="Values of the plug-in's Config")
    ] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Check whether a decoder, encoder, data set or metric fulfils its contract.

    Tests shapes, gradients, whether the loss falls, stages, two ranks against one, resuming and cost. Prints one line
    per check with its figures, or with expected and actual values. docs/OWN_DECODER.md lists the checks. Exit code 1
    if a check fails.

    \b
    harness check frame_difference --plugins docs/examples
    harness check mine/decoders/mine.py channels=48
    """
    from harness.tools import check as contract

    kind, name, own = contract.find(plugin, folders(plugins))
    trains = "" if kind == "metrics" else ": this trains a tiny model and takes about a minute"
    log.info(f"checking {kind[:-1]} {name}{trains}")
    tell = log.info if as_json else out
    results = []
    for result in contract.checks(kind, name, own, contract.options(options or [])):
        tell(contract.line(result))
        results.append(result)
    broken = sum(not result.passed for result in results)
    if as_json:
        rows = [{"what": result.what, "held": result.passed, "text": result.text} for result in results]
        out(json.dumps({"schema": 1, "kind": kind, "name": name, "held": not broken, "promises": rows}, indent=1))
    log.info(f"{len(results) - broken} of {len(results)} checks passed")
    if broken:
        raise typer.Exit(1)


def doctor(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PART|EXPERIMENT|KEY=VALUE",
            help="Parts to check: software, devices, weights, disk, store, data; the rest as for `run`  "
            "[built in: all parts, ablation_ensemble]",
            autocompletion=completion.parts_and_experiments,
        ),
    ] = None,
    preset: Preset = None,
    root: Root = None,
    seeds: Seeds = 1,
    thorough: Annotated[bool, typer.Option("--thorough", help="Read every frame and mask instead of a sample")] = False,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Check the data, weights, machine and MLflow store.

    Give the arguments that you will give `run`. Prints where each setting comes from (flag, harness.yaml or built in),
    then one line per check of data, weights, devices, software, store and disk: OK, FAIL or a note, with a remedy.
    Exit code 3 if a check fails. Name parts to check only those, with the settings that are not built in; give an
    experiment of the same name by its file's path.

    \b
    harness doctor ablation_ensemble --preset paper data.vspw.root=DIR
    harness doctor data data.name=vspw data.vspw.root=DIR
    """
    from harness.tools import doctor as physician

    parts = [word for word in words or [] if word in physician.PARTS] or physician.PARTS
    names = [word for word in words or [] if "=" not in word and word not in parts] or ["ablation_ensemble"]
    overrides = [word for word in words or [] if "=" in word]
    planned, settings = make_plan([*names, *overrides], seeds, preset, root, plugins, compute=False)
    tell = log.info if as_json else out
    chosen = parts is not physician.PARTS
    for key, source in settings.sources.items():
        if chosen and source == "built in":
            continue
        tell(f"setting   {key} = {redacted(getattr(settings, key))}  ({source})")
    findings = []
    for finding in physician.examine(
        planned.config,
        planned.root,
        settings.tracking_uri,
        settings.prefix,
        plan=planned,
        thorough=thorough,
        parts=parts,
    ):
        tell(physician.line(finding))
        findings.append(finding)
    if as_json:
        origins = {key: {"value": redacted(getattr(settings, key)), "source": s} for key, s in settings.sources.items()}
        out(json.dumps({**physician.findings_json(findings), "settings": origins}, indent=1))
    if any(finding.fit is False for finding in findings):
        raise typer.Exit(UnfitError.exit_code)
