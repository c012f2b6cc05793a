"""A SLURM for tests: `sbatch` and `scontrol` write down what they are asked for, and the test runs it.

Follows the manual pages of sbatch (--parsable, --array, --dependency=afterok, the variables of a job) and scontrol
(requeue).
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

_SBATCH = """#!{python}
import json, pathlib, re, sys
folder = pathlib.Path({folder!r})
options = dict(word[2:].partition("=")[::2] for word in sys.argv[1:] if word.startswith("--"))
script, *rest = [word for word in sys.argv[1:] if not word.startswith("--")]
text = pathlib.Path(script).read_text()
headers = dict(line.split("--", 1)[1].partition("=")[::2] for line in re.findall("^#SBATCH (.*)$", text, re.M))
number = 100 + len(list(folder.glob("*.json")))
(folder / f"{{number}}.sh").write_text(text)
(folder / f"{{number}}.json").write_text(json.dumps({{"options": headers | options, "arguments": rest}}))
print(f"{{number}};cluster" if "parsable" in options else f"Submitted batch job {{number}}")
"""

_SCONTROL = """#!{python}
import pathlib, sys
(pathlib.Path({folder!r}) / f"requeue_{{sys.argv[2]}}").write_text(sys.argv[1])
"""


@dataclass
class Slurm:
    """A queue in a folder."""

    folder: Path
    variables: dict[str, str]
    """Variables that every job has, besides those of SLURM."""
    finished: dict[str, bool] = field(default_factory=dict)
    """Whether each job that ran succeeded."""
    never: list[str] = field(default_factory=list)
    """Jobs that cannot run any more."""

    def __post_init__(self):
        programs = self.folder / "bin"
        programs.mkdir(parents=True)
        for name, text in (("sbatch", _SBATCH), ("scontrol", _SCONTROL)):
            (programs / name).write_text(text.format(python=sys.executable, folder=str(self.folder)))
            (programs / name).chmod(0o755)
        self.environment = {**os.environ, **self.variables, "PATH": f"{programs}:{os.environ['PATH']}"}

    def sbatch(self, script: Path) -> None:
        """Submit as a user does."""
        subprocess.run(["sbatch", str(script)], env=self.environment, check=True, capture_output=True)

    def job(self, number: str) -> dict[str, str]:
        """Options of a job: its directives, and what sbatch was given."""
        options: dict[str, str] = json.loads((self.folder / f"{number}.json").read_text())["options"]
        return options

    def run_all(self) -> None:
        """Run every job whose dependencies are met, until none is left."""
        while waiting := [number for number in self._numbers() if number not in (*self.finished, *self.never)]:
            for number in waiting:
                before = self.job(number).get("dependency", "").removeprefix("afterok:")
                if not before or self.finished.get(before):
                    first, _, last = self.job(number)["array"].partition("-")
                    results = [self.run_task(number, index) for index in range(int(first), int(last or first) + 1)]
                    self.finished[number] = not any(results)
                elif before in self.never or before in self.finished:
                    self.never.append(number)

    def run_task(self, number: str, index: int, restarts: int = 0) -> int:
        """Run one index, and again when it is queued again; gives its exit code."""
        task = {
            "SLURM_JOB_ID": f"{number}{index}",
            "SLURM_ARRAY_JOB_ID": number,
            "SLURM_ARRAY_TASK_ID": str(index),
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_RESTART_COUNT": str(restarts),
        }
        script = self.folder / f"{number}.sh"
        arguments = json.loads((self.folder / f"{number}.json").read_text())["arguments"]
        command = ["bash", str(script), *arguments]
        with (self.folder / f"log_{number}_{index}.txt").open("ab") as log:
            code = subprocess.run(command, env=self.environment | task, stdout=log, stderr=log, check=False).returncode
        requeued = self.folder / f"requeue_{number}{index}"
        if requeued.exists():
            requeued.unlink()
            return self.run_task(number, index, restarts + 1)
        return code

    def _numbers(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("*.json"))
