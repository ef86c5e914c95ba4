"""How far a training is between its first step and its last, where the last may be moved while it runs."""

from collections.abc import Sequence

Move = tuple[int, int]
"""(steps that were done when it was decided, steps in all from then on)."""


class Course:
    """Progress from 0 to 1 over the steps of a training, on which its learning rate depends.

    Where the end is moved, progress stays where it is, and what is left of it is spread evenly over the steps that are
    left: the learning rate never jumps.
    """

    def __init__(self, steps: int, moves: Sequence[Move] = ()) -> None:
        self.moves: list[Move] = [(0, steps)]
        for done, whole in moves:
            self.move(done, whole)

    @property
    def end(self) -> int:
        """Steps in all, as was decided last."""
        return self.moves[-1][1]

    def move(self, done: int, whole: int) -> None:
        """From the step `done` on there are `whole` steps in all. Decisions come in order, and none goes back."""
        if not self.moves[-1][0] <= done <= whole:
            raise ValueError(f"after {done} steps the end cannot become {whole} (moves: {self.moves})")
        self.moves.append((done, whole))

    def progress(self, step: int) -> float:
        """At a step, counted from 0, with the end as it was by then."""
        (at, whole), before = self.moves[0], 0.0
        for done, end in self.moves[1:]:
            if done > step:
                break
            before += (done - at) / max(1, whole - at) * (1 - before)
            at, whole = done, end
        return before + (step - at) / max(1, whole - at) * (1 - before)
