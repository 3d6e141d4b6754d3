"""The README's examples run as they are written."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_python_blocks_run_and_print_what_their_comments_say(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)
    printed = capsys.readouterr().out.splitlines()
    promised = re.findall(r"print\(.*?\)\)?  # κ = ([\d.e+]+)", blocks[0])
    measured = [float(re.match(r"κ = (\S+) in", line)[1]) for line in printed[:2]]
    assert len(promised) == 2
    for text, value in zip(promised, measured, strict=True):
        assert abs(float(text) / value - 1) < 0.01
