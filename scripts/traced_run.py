"""Run one `autoseg` command and write down which of its source files run, and how deep its network or loss is called.

Usage: traced_run.py ROOT GOAL RESULT.json WORD ...      GOAL: network, loss or none
"""

import json
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import CodeType, FrameType

IS_FUNCTION = 0x1
"""Flag of code objects that belong to a function (CPython's CO_OPTIMIZED), not to a module or a class body."""
COMPREHENSIONS = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"})
"""Code objects that are a function for the interpreter only."""
GOALS = {
    "network": ("autoseg/networks/", "forward"),
    "loss": ("autoseg/training/losses/", "__call__"),
    "none": ("none", ""),
}
"""Where the function is that a path leads to, and its name."""


class Trace:
    """A profile function that notes files, and the stack at the first call of the goal.

    With the goal `loss`, files count until the first loss is computed; else until the command ends.
    """

    def __init__(self, root: Path, goal: str) -> None:
        self._root = str(root) + os.sep
        self._goal = goal
        self._goal_frame: FrameType | None = None
        self._is_done = False
        self.files: set[str] = set()
        self.functions: set[str] = set()
        self.stack: list[str] = []
        """Functions of the project that are running when the goal is called, from the command line down."""

    def start(self) -> None:
        """Watch this thread and all that it starts."""
        threading.setprofile(self)
        sys.setprofile(self)

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Note one call or return."""
        if self._is_done:
            sys.setprofile(None)
        elif event == "call":
            self._note_call(frame)
        elif event == "return" and frame is self._goal_frame and self._goal == "loss":
            self._is_done = True

    def _note_call(self, frame: FrameType) -> None:
        name = self._source(frame.f_code)
        if name is None:
            return
        if not name.startswith("autoseg/records/"):
            self.files.add(name)
            self.functions.add(f"{name}:{frame.f_code.co_qualname}")
        if not self.stack and self._is_goal(name, frame.f_code):
            self._goal_frame = frame
            self.stack = self._project_frames(frame.f_back)

    def _source(self, code: CodeType) -> str | None:
        """Path of a project function's file, relative to the root; None for all other code."""
        name = code.co_filename
        if not code.co_flags & IS_FUNCTION or code.co_name in COMPREHENSIONS or not name.startswith(self._root):
            return None
        name = name[len(self._root) :]
        return name if name.startswith(("autoseg/", "planners/")) else None

    def _is_goal(self, name: str, code: CodeType) -> bool:
        folder, function = GOALS[self._goal]
        return name.startswith(folder) and code.co_name == function

    def _project_frames(self, frame: FrameType | None) -> list[str]:
        stack = []
        while frame is not None:
            name = self._source(frame.f_code)
            if name is not None:
                stack.append(f"{name}:{frame.f_code.co_qualname}")
            frame = frame.f_back
        return stack[::-1]

    def as_json(self) -> str:
        """Write down all that was seen."""
        seen = {"files": sorted(self.files), "functions": sorted(self.functions), "stack": self.stack}
        return json.dumps(seen, indent=1)


def main() -> int:
    """Run the command; the exit code is the command's own."""
    root, goal, result, *words = sys.argv[1:]
    from autoseg.cli import main as command_line

    trace = Trace(Path(root).resolve(), goal)
    code = 0
    trace.start()
    try:
        with suppress(SystemExit):
            code = command_line.main(words)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    Path(result).write_text(trace.as_json(), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
