"""The progress of a training from its first step to its last, which may be moved while it runs."""

from collections.abc import Sequence

Move = tuple[int, int]
"""A decision to move the end of a training: (steps done when it was decided, total number of steps from then on)."""


class Course:
    """Progress, from 0 to 1, over the steps of a training; the learning rate depends on it.

    When the end is moved, the progress made so far stays, and the rest is spread evenly over the remaining steps, so
    that the learning rate never jumps.
    """

    def __init__(self, steps: int, moves: Sequence[Move] = ()) -> None:
        self.moves: list[Move] = [(0, steps)]
        for done, whole in moves:
            self.move(done, whole)

    @property
    def end(self) -> int:
        """Total number of steps, by the latest decision."""
        return self.moves[-1][1]

    def move(self, done: int, whole: int) -> None:
        """Set the total number of steps to `whole`, as decided after `done` steps.

        Raises ValueError if an earlier call was made after more steps, or if `whole` is less than `done`.
        """
        if not self.moves[-1][0] <= done <= whole:
            raise ValueError(f"after {done} steps the end cannot become {whole} (moves: {self.moves})")
        self.moves.append((done, whole))

    def progress(self, step: int) -> float:
        """Return the progress at a step, counted from 0, with the end as it had been decided by then."""
        (at, whole), before = self.moves[0], 0.0
        for done, end in self.moves[1:]:
            if done > step:
                break
            before += (done - at) / max(1, whole - at) * (1 - before)
            at, whole = done, end
        return before + (step - at) / max(1, whole - at) * (1 - before)
