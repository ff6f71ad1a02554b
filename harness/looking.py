"""Commands that show: `harness ui`, `harness predict`. They parse and print, and decide nothing."""

from pathlib import Path
from typing import Annotated

import typer

from harness.core.errors import UsageError
from harness.core.voice import out, say


def ui(
    experiment: Annotated[
        str | None, typer.Argument(metavar="EXPERIMENT", help="Whose runs to open  [default: the last one's]")
    ] = None,
    port: Annotated[int, typer.Option(metavar="N", help="The port to listen on; the next free one where taken")] = 5000,
    browse: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the browser")] = True,
) -> None:
    """Open MLflow on the store of the runs, at the table of paper, ours and gain.

    It listens on this machine only and ends with Ctrl-C. Where the store is a server, the link is all there is to say.

    \b
    harness ui
    harness ui ablation_ensemble --port 5050 --no-browser
    """
    from harness import ui as service
    from harness.core import settings
    from harness.store.tracking import Tracking

    found = settings.resolve()
    service.serve(Tracking(found.tracking_uri, found.prefix), experiment, port, browse, say)


def predict(
    words: Annotated[
        list[str],
        typer.Argument(metavar="CHECKPOINT... VIDEO|FRAMES", help="Finished trainings' directories, then what to see"),
    ],
    folder: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where masks and overlay go  [default: SOURCE_masks]")
    ] = None,
    stage: Annotated[int, typer.Option(metavar="N", help="How often P is replaced by the mask before (Table 2)")] = 0,
) -> None:
    """Predict masks and an overlay video for a video of your own.

    A CHECKPOINT is a finished training's directory, runs/jobs/FINGERPRINT; several are an ensemble. Given again, it
    goes on from where it was stopped. Frames are a folder of pictures; a video needs the extra `video` (ffmpeg).

    \b
    harness predict runs/jobs/0123456789abcdef street.mp4
    harness predict runs/jobs/A runs/jobs/B frames/ --stage 1 --out seen
    """
    if len(words) < 2:
        raise UsageError(
            "harness predict CHECKPOINT... VIDEO|FRAMES: name a training's directory, then what to predict"
        )
    from harness.predict import predict as work
    from harness.show import counter

    *checkpoints, source = map(Path, words)
    target = folder or source.resolve().with_name(f"{source.resolve().stem}_masks")
    with counter("frames") as show:
        done = work(checkpoints, source, target, stage, show)
    out(f"{done.frames} frames, {done.new} of them now: masks in {done.folder / 'masks'}, overlay {done.overlay}")
    if done.cut:
        from harness.core.errors import UnfitError

        raise UnfitError(f"{done.cut}; what came before is predicted")
