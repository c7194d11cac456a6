"""Ctrl-C: the first asks, the second ends, and nobody waits longer than agreed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

_SCRIPT = """
import sys, time
from docr.cli.signals import StopOnSignal, exit_code
class Stop:
    number = None
    def request(self, number): self.number = number
stop = Stop()
obedient = sys.argv[1] == "obedient"
with StopOnSignal(stop, grace_seconds=float(sys.argv[2])):
    print("ready", flush=True)
    end = time.monotonic() + 20
    while time.monotonic() < end and not (obedient and stop.number):
        time.sleep(0.01)
if sys.argv[1:][2:] == ["hang"]:
    time.sleep(20)
sys.exit(exit_code(stop.number) if stop.number else 99)
"""


def _start(*arguments: str, prefix: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", _SCRIPT, *arguments],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)],
)
def test_first_signal_asks_for_a_clean_stop(number: signal.Signals, code: int) -> None:
    process = _start("obedient", "10")
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert process.returncode == code
    assert err == f"docr: {number.name}: stopping; once more to stop at once\n"


def test_second_signal_ends_at_once() -> None:
    process = _start("deaf", "10")
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None and "stopping" in process.stderr.readline()
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 143 and time.monotonic() - begin < 5


@pytest.mark.parametrize("arguments", [("deaf", "0.3"), ("obedient", "0.3", "hang")])
def test_a_stop_that_takes_too_long_is_cut_short(arguments: tuple[str, ...]) -> None:
    process = _start(*arguments)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130 and "more than 0.3 s" in err


def test_ignored_signals_stay_ignored() -> None:
    process = _start("obedient", "10", prefix=("nohup",))
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 143
