"""A plan as text and as JSON."""

from harness.common import machine
from harness.plan import data_changes, source_changes
from harness.plan.job import Evaluate, Job
from harness.plan.plan import Experiment, Plan, setting
from harness.results import paper
from harness.results.records import provenance

PIXEL_BYTES = 0.06  # of a mask as PNG, at most
FRAME_PIXELS = 480 * 853  # of VSPW
STATES = ("done", "resumable", "missing")


def plan_json(plan: Plan) -> dict[str, object]:
    """Return what `plan --json` prints."""
    before = data_changes.finished(plan)
    return {
        "schema": 1,
        "root": str(plan.root),
        "setting": setting(plan.config),
        "not_the_paper": paper.not_the_papers(setting(plan.config)),
        "absent": list(plan.config.content.missing),
        "undigested": data_changes.undigested(plan),
        "experiments": [
            {
                "experiment": experiment.name,
                "title": experiment.title,
                "digest": experiment.digest,
                "cells": [
                    {"cell": cell.name, "method": cell.method, "seed": seed, "job": cell.job.fingerprint}
                    for seed, cell in experiment.cells
                ],
            }
            for experiment in plan.experiments
        ],
        "jobs": [
            {
                "fingerprint": job.fingerprint,
                "name": job.name,
                "state": plan.state(job),
                "changed": source_changes.changed(plan, job) if plan.state(job) == "done" else [],
                "data_changed": data_changes.changed(plan, job, before) or None,
                "needs": [needed.fingerprint for needed in job.inputs],
                "identity": job.identity,
            }
            for job in plan.jobs
        ],
    }


def plan_text(plan: Plan) -> str:
    """Return what `plan` prints: the setting, the rows of every experiment, the jobs with their state."""
    lines = setting_lines(plan)
    for experiment in plan.experiments:
        lines += ["", *experiment_lines(experiment)]
    jobs = plan.jobs
    states = [plan.state(job) for job in jobs]
    width = max(len(job.name) for job in jobs)
    lines += ["", f"Jobs ({len(jobs)}: {', '.join(f'{states.count(s)} {s}' for s in STATES if s in states)})"]
    before, undigested = data_changes.finished(plan), data_changes.undigested(plan).keys()
    for job, state in zip(jobs, states, strict=True):
        why = data_changes.changed(plan, job, before) if state != "done" else ""
        more = after(plan, job) if state == "done" else f"; data changed: {why}" if why else ""
        more += "; its data has no digest yet" if data_changes.splits_of(job) & undigested else ""
        lines.append(f"  {job.fingerprint}  {job.name:<{width}}  {state}{more}")
    if notes := data_changes.lines(plan):
        lines += ["", *notes]
    for absent in plan.config.content.missing:
        lines += ["", f"Not available, so fingerprints are provisional: {absent}"]
    return "\n".join(lines)


def after(plan: Plan, job: Job) -> str:
    """Return how long a finished job took, and which of its sources have changed since."""
    seconds = provenance(plan.directory(job)).get("seconds")
    files = source_changes.changed(plan, job)
    took = f" in {seconds:.0f} s" if seconds is not None else ""
    return took + (f", code changed: {', '.join(files)}" if files else "")


def setting_lines(plan: Plan) -> list[str]:
    """Return the setting in words."""
    config, train, facts = plan.config, plan.config.train, setting(plan.config)
    micro = config.micro_batch
    ranks = f"; {paper.RANKS} ranks × {micro // paper.RANKS} on the paper's machine" if micro % paper.RANKS == 0 else ""
    different = paper.not_the_papers(facts)
    memory = [
        f"{name} {options['init']}, projections {options['proj']}, m {options['momentum']} {options['schedule']}"
        for name, options in config["decoder"].items()
        if {"init", "proj", "momentum", "schedule"} <= options.keys()
    ]
    return [
        f"Preset {config.preset}: "
        + (f"not the paper's setting ({'; '.join(different)})" if different else "the paper's setting"),
        f"  data       {facts['dataset']}, {facts['classes']} classes, {facts['train_videos']} train and "
        f"{facts['val_videos']} val videos",
        f"  encoder    {paper.backbone(facts['encoder'])} ({facts['encoder']}) at {train.crop}",
        *(f"  memory     {line}" for line in memory),
        f"  training   AdamW {train.lr:g}, weight decay {train.weight_decay:g}, layer decay {train.layer_decay:g}, "
        f"warm-up {train.warmup}, crop {train.crop}, {config['precision']}",
        f"  batch      {train.batch} ({train.batch // micro} micro-batch(es) of {micro} sharing BN statistics{ranks})",
        f"  here       {sharing(train.batch, micro, machine.gpus())}",
        f"  schedule   {train.epochs} epochs over {facts['train_videos']} videos × {train.frames_per_video} frame(s) "
        f"= {config.iterations()} iterations",
        f"  masks      {masks(plan)}",
    ]


def experiment_lines(experiment: Experiment) -> list[str]:
    """Return an experiment's rows, and the paper's numbers for them."""
    lines = [f"{experiment.title}  [{experiment.name}]"]
    width = max(16, *(len(cell.label or cell.method) for _, cell in experiment.cells))
    for seed, cell in experiment.cells:
        published = paper.published(experiment.name, cell.name)
        number = f"paper {published.miou:.2f}" if published else ""
        note = f"skipped: {cell.skip}" if cell.skip else number
        lines.append(f"  {cell.label or cell.method:<{width}} seed {seed}  {cell.job.fingerprint}  {note}".rstrip())
    return lines


def sharing(batch: int, micro_batch: int, gpus: int) -> str:
    """Return how `gpus` share out a batch without changing a number, and a setting for less memory."""
    if gpus < 1:
        return "no GPU; one process takes the whole batch"
    world = machine.ranks(micro_batch, gpus)
    idle = f", {gpus - world} idle" if world < gpus else ""
    text = f"{world} rank(s) × {micro_batch // world}{idle}"
    theirs = max(1, micro_batch // paper.RANKS)
    if micro_batch // world <= theirs:
        return text
    smaller = world * theirs
    if smaller < micro_batch and batch % smaller == 0:
        text += f"; if it runs out of memory: train.micro_batch={smaller} ({world} × {theirs}; batch norm sees fewer"
        text += " samples, so results differ)"
    return text


def masks(plan: Plan) -> str:
    """Return which masks the evaluations keep, and their size on disk as far as it is known before they ran."""
    evaluations = [job for job in plan.jobs if isinstance(job, Evaluate)]
    if plan.config["evaluate"]["keep_masks"]:
        each = "every frame of every video, which takes most of the disk space: about "
        return f"{each}{PIXEL_BYTES:g} bytes per pixel, {len(evaluations)} evaluations (evaluate.keep_masks)"
    videos = sum(plan.config.content.videos.get(job.split) or 0 for job in evaluations)
    size = videos * FRAME_PIXELS * PIXEL_BYTES / 2**20
    return f"the middle frame of every video of a labelled split, {videos} in all, at most about {size:.0f} MiB at 480p"
