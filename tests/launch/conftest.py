"""Programs that stand in for gcloud, kubectl and sbatch: they note their calls and answer."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from launch import commands, gke, tpu_vm

# Answers are taken in order, the first that fits the command; other commands succeed in silence.
STAND_IN = f"""#!{sys.executable} -SE
import json, os, sys
here = os.path.dirname(os.path.abspath(__file__))
line = " ".join([os.path.basename(__file__), *sys.argv[1:]])
given = sys.stdin.read() if "--filename=-" in sys.argv else ""
variables = {{k: v for k, v in os.environ.items() if k.startswith(("JAX_", "XLA_"))}}
with open(here + "/calls", "a") as calls:
    calls.write(json.dumps([line, given, variables]) + "\\n")
with open(here + "/answers") as file:
    answers = json.load(file)
for place, (part, status, output) in enumerate(answers):
    if part in line:
        del answers[place]
        with open(here + "/answers", "w") as file:
            json.dump(answers, file)
        if status:
            sys.exit(output or status)
        print(output)
        break
"""


@dataclasses.dataclass
class StandIns:
    folder: Path

    def add(self, *names):
        for name in names:
            file = self.folder / name
            file.write_text(STAND_IN)
            file.chmod(0o755)

    def answer(self, *answers):
        """Answers (part of the command, status or message of the error, output)."""
        full = [
            [part, int(isinstance(error, str)) or error, error if isinstance(error, str) else out]
            for part, error, out in answers
        ]
        (self.folder / "answers").write_text(json.dumps(full))

    def unanswered(self):
        return json.loads((self.folder / "answers").read_text())

    def calls(self):
        """(command, standard input, variables) of each call."""
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line) for line in lines]

    def commands(self):
        return [line for line, _, _ in self.calls()]


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    made = StandIns(folder)
    made.answer()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return made


@pytest.fixture
def unhurried(monkeypatch):
    """Pauses take no time, and the run's own flags are not checked."""
    monkeypatch.setattr(tpu_vm, "PAUSE", 0)
    monkeypatch.setattr(gke, "PAUSE", 0)
    monkeypatch.setattr(commands, "check_run", lambda *_, **__: None)
