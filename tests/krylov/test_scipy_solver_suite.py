"""SciPy's own tests of its solvers pass with precondlab's in their place (``tests/peer/scipy_*solvers.py``).

Here a part is run, chosen by time alone; ``make scipy-suites`` runs the whole.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINALG = "scipy.sparse.linalg"
# plugin → the suites, what selects the part run here, how many tests pass and solves are made at least,
# and what may fail, with the reason
SUITES = {
    "scipy_solvers": ([f"{LINALG}._isolve"], [], 80, 300, {}),
    "scipy_eigensolvers": (
        [f"{LINALG}._eigen"],
        ["-k", "not small_sigma_sparse and not test_dtypes"],
        250,
        250,
        {
            "test_svds_parameter_tol": "expects the accuracy that ARPACK reaches beyond tol",
            "test_eigsh_consistency[5-1e-08]": "a block of more than a third of the space is refused",
            "test_nonhermitian_warning": "wording of SciPy's warnings",
            "test_fiedler_small_8": "wording of SciPy's warnings",
            "test_failure_to_run_iterations_nonsymmetric": "wording of SciPy's warnings",
            "test_verbosity": "wording of SciPy's warnings",
            "test_inplace_warning": "wording of SciPy's warnings",
        },
    ),
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("plugin", SUITES)
def test_scipy_solver_suite(plugin, tmp_path):
    suites, part, passed, solved, named = SUITES[plugin]
    selection = [] if os.environ.get("SCIPY_SUITES") == "whole" else part
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "COV_"))}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "peer")])
    options = ["-q", "-c", os.devnull, f"--rootdir={tmp_path}", "-p", "no:cacheprovider", "-W", "ignore"]
    command = [sys.executable, "-m", "pytest", *options, "-p", plugin, *selection, "--pyargs", *suites]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    tail = "\n".join([*run.stdout.splitlines()[-40:], *run.stderr.splitlines()[-10:]])
    failed = {name.rpartition("::")[2] for name in re.findall(r"^FAILED (\S+)", run.stdout, re.MULTILINE)}
    outcome = {word: int(number) for number, word in re.findall(r"(\d+) (passed|skipped|error|solved)", tail)}
    assert failed == set(named) and run.returncode == bool(named), tail
    assert outcome["passed"] >= passed and outcome["solved"] >= solved, tail
