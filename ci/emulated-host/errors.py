"""The one error of this folder: what went wrong, what to do, and the exit code to give."""

from __future__ import annotations

USAGE, UNSUPPORTED, BROKE = 2, 5, 6  # DESIGN.md, exit codes


class EmulateError(Exception):
    def __init__(self, text: str, exit_code: int = BROKE) -> None:
        super().__init__(text)
        self.exit_code = exit_code
