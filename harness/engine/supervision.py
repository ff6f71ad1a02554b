"""Whether a training has labels to learn from: iterations without a labelled pixel, and with a loss of exactly 0."""

from collections.abc import Mapping
from dataclasses import dataclass

from harness.common.errors import UnfitError

FIRST = 10  # iterations before a warning; from then on it comes each time their number has doubled


@dataclass
class Supervision:
    """Counts over a training's iterations, those of earlier attempts included."""

    iterations: int = 0
    unlabelled: int = 0  # iterations without a labelled pixel in the whole batch
    zero: int = 0  # iterations with a labelled pixel whose loss was exactly 0

    def add(self, valid: int, values: Mapping[str, float]) -> None:
        """Count an iteration with `valid` labelled pixels and its losses."""
        self.iterations += 1
        self.unlabelled += valid == 0
        self.zero += valid > 0 and values.get("loss") == 0

    def warning(self, last: int, data: str) -> str | None:
        """Return what is wrong in a line, where that is to be told after this iteration; `last`: of all iterations."""
        rounds, rest = divmod(self.iterations, FIRST)
        due = rest == 0 and rounds.bit_count() == 1  # 10, 20, 40, …
        if not due and self.iterations != last:
            return None
        if 2 * self.unlabelled > self.iterations:
            return (
                f"{self.unlabelled} of {self.iterations} iterations had no labelled pixel and no effect: most "
                f"training masks of {data} are void (255); `harness doctor --thorough` counts them"
            )
        if self.zero and self.unlabelled + self.zero == self.iterations:
            return (
                f"the loss was exactly 0 in all of {self.iterations} iterations although pixels are labelled, so "
                f"nothing is learnt; do the masks of {data} hold several classes, and are the logits the decoder's own?"
            )
        return None

    def nothing(self, iterations: int, data: str, samples: list[str]) -> UnfitError | None:
        """Return the error where none of all iterations had a labelled pixel; `samples`: video/frame of some.

        Iterations before a checkpoint of 0.1 are not counted, and count as labelled.
        """
        if self.unlabelled < iterations:
            return None
        return UnfitError(
            f"no pixel was labelled in any of {iterations} iterations, so nothing was learnt: the training masks "
            f"of {data} are void (255) or hold no number of a class (read last: {', '.join(samples[:3])}); correct "
            "the masks or the class list (docs/DATA.md), then rerun the same command"
        )
