"""The script that compares expressions, run as the pool runs it: its protocol, its limits, what it imports."""

import subprocess
import sys

from t2.grading.math import worker as math_worker


def _as_script(run_name, then="", **options):
    program = f"""
import runpy, sys
sys.argv = ["math_worker", "5"]
worker = runpy.run_path({math_worker.__file__!r}, run_name={run_name!r})
{then}
"""
    command = [sys.executable, "-P", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, **options)


def test_a_worker_cannot_take_the_machines_memory():
    refused = """
worker["limit_memory"]()
try: bytearray(4 * 1024**3)
except MemoryError: print("refused")
"""
    assert _as_script("math_worker", refused).stdout == "refused\n"


def test_a_worker_answers_until_its_input_ends_and_imports_nothing_of_t2():
    requests = '["x+1", "1+x"]\n["x", "y"]\n["x"]\n["7^{7^{9}}", "x"]\n["5", "3 \\\\mod 5"]\n["2x", "x + x"]\n'
    imported = "print([name for name in sys.modules if name in ('t2', 'torch')], file=sys.stderr)"
    done = _as_script("__main__", imported, input=requests)
    assert done.stdout.split() == [
        "true",
        "true",
        "false",
        "true",
        "false",
        "false",
        "true",
    ]  # the first says that it is ready
    assert done.stderr.splitlines()[-1] == "[]"
