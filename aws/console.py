"""Progress, messages and warnings on stderr; stdout is for the results of the scripts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from rich.console import Console

QUIET_SECONDS = 30.0  # how often a long stage shows, without a terminal, that it goes on


@dataclasses.dataclass(frozen=True)
class Clock:
    """The clock that waiting and progress go by; tests use their own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


CLOCK = Clock()


class Progress:
    """The state of something that takes long, as a context manager.

    On a terminal it is one line that changes, and that stays when the context ends. Elsewhere each
    new state is a line of its own, and a state that lasts is printed again every half minute.
    """

    def __init__(self, clock: Clock = CLOCK) -> None:
        self.clock = clock
        self.console = make_console()
        self.status = self.console.status("")
        self.state = self.line = ""
        self.printed = clock.now()  # when the last line was printed

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self.status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.status.stop()
        if self.console.is_terminal and self.line:
            self.console.print(self.line)

    def show(self, state: str, detail: str = "") -> None:
        """Show the state with a detail, such as the elapsed time, that alone needs no new line."""
        self.line = f"{state} {detail}".strip()
        if self.console.is_terminal:
            self.status.update(self.line)
        elif state != self.state or self.clock.now() - self.printed >= QUIET_SECONDS:
            self.console.print(self.line)
            self.printed = self.clock.now()
        self.state = state


def make_console() -> Console:
    """A console on stderr that prints text as it is: AWS's messages contain brackets."""
    return Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)


class ResultConsole(Console):
    """A console that leaves a reader who has seen enough, such as head, to run_script."""

    def on_broken_pipe(self) -> None:
        """Raise what Python raises, where rich itself ends the program with exit code 1."""
        raise BrokenPipeError


def make_result_console() -> Console:
    """A console on stdout for results that look better on a terminal."""
    return ResultConsole(markup=False, emoji=False, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print a line on stderr."""
    make_console().print(text)


def warn(text: str) -> None:
    """Print on stderr something that the user should fix."""
    make_console().print(f"warning: {text}", style="yellow")
