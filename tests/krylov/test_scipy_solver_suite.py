"""SciPy's own tests of cg, minres and lsqr pass with precondlab's in their place (``tests/peer/scipy_solvers.py``)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_scipy_solver_suite(tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "COV_"))}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "peer")])
    options = ["-q", "-c", os.devnull, f"--rootdir={tmp_path}", "-p", "no:cacheprovider", "-W", "ignore"]
    suite = ["-p", "scipy_solvers", "--pyargs", "scipy.sparse.linalg._isolve"]
    command = [sys.executable, "-m", "pytest", *options, *suite]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    tail = "\n".join([*run.stdout.splitlines()[-40:], *run.stderr.splitlines()[-10:]])
    failed = re.findall(r"^FAILED (\S+)", run.stdout, re.MULTILINE)
    outcome = {word: int(number) for number, word in re.findall(r"(\d+) (passed|skipped|error|solved)", tail)}
    assert failed == [] and run.returncode == 0, tail  # input validation included
    assert outcome["passed"] >= 80 and outcome["solved"] >= 300, tail
