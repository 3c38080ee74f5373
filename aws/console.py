"""What the laptop scripts print: results on stdout are theirs, narration on stderr is from here."""

from __future__ import annotations

from rich.console import Console


class Progress:
    """What goes on: one line that changes on a terminal, elsewhere a plain line for each new state.

    Use it as a context: at its end the terminal's line stands still.
    """

    def __init__(self) -> None:
        self.console = make_console()
        self.status = self.console.status("")
        self.state = self.line = ""

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self.status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.status.stop()
        if self.console.is_terminal and self.line:
            self.console.print(self.line)

    def show(self, state: str, detail: str = "") -> None:
        """Tell the state; the detail, say the seconds, is only worth a line of its own with it."""
        self.line = f"{state} {detail}".strip()
        if self.console.is_terminal:
            self.status.update(self.line)
        elif state != self.state:
            self.console.print(self.line)
        self.state = state


def make_console() -> Console:
    """A console on stderr that prints text as it is: AWS's messages are full of brackets."""
    return Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Narrate a line on stderr."""
    make_console().print(text)


def warn(text: str) -> None:
    """Narrate something that the user should mend."""
    make_console().print(f"warning: {text}", style="yellow")
