"""SciPy's own tests pass with operators of precondlab in place of SciPy's.

The plugin is ``tests/peer/scipy_operators.py``. Here a part of the suites is run, chosen by time alone;
``make scipy-suites`` runs them whole.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINALG = "scipy.sparse.linalg"
SUITES = {  # name → the suite, what selects the part that is run here, how many tests must pass at least
    "arpack": ([f"{LINALG}._eigen.arpack"], [], 600),
    "lobpcg": ([f"{LINALG}._eigen.lobpcg"], ["-k", "not diagonal_data_types"], 500),
    "svds": ([f"{LINALG}._eigen.tests.test_svds"], ["-k", "not small_sigma"], 400),
    "isolve": ([f"{LINALG}._isolve", "--double"], ["-k", "not poisson2d"], 500),
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SUITES)
def test_scipy_suite(name, tmp_path):
    suite, part, least = SUITES[name]
    selection = [] if os.environ.get("SCIPY_SUITES") == "whole" else part
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "COV_"))}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "peer")])
    options = ["-q", "-c", os.devnull, f"--rootdir={tmp_path}", "-p", "no:cacheprovider", "-W", "ignore"]
    command = [sys.executable, "-m", "pytest", *options, "-p", "scipy_operators", *selection, "--pyargs", *suite]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    tail = "\n".join([*run.stdout.splitlines()[-40:], *run.stderr.splitlines()[-10:]])
    outcome = {
        word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error|operators|products)", tail)
    }
    assert run.returncode == 0 and not outcome.keys() & {"failed", "error"}, tail
    assert outcome["passed"] >= least and outcome["operators"] >= least / 4 and outcome["products"] > least, tail
