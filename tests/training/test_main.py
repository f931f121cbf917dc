"""`python -m training`: what cannot be done is one line, said before anything is trained."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("controls DIR --json FILE/x.json", 2, "--json FILE/x.json: no file can be written there"),
        ("controls DIR --json DIR", 2, "--json DIR: no file can be written there"),
        ("evaluate --bundle DIR --data phantom --markdown DIR", 2, "--markdown DIR: no file can be written there"),
        ("bundle --data phantom --out FILE --work DIR/w", 1, "error: FILE is a file; name a folder for the bundle"),
        ("benchmark --data phantom --quick --out FILE", 1, "error: FILE: File exists"),
        ("second --data phantom --architecture nosuch --out DIR/s", 1, "has no 'nosuch'; there is: efficientnet_lite0"),
        ("synthesize --model FILE --out DIR/s --count 0", 2, "give a whole number, 1 or more, not '0'"),
        ("synthesize --model FILE --out DIR/s --scale nan", 2, "give a number from 0 to 1e+06, not 'nan'"),
        ("claims --out DIR/c --labels 0.1 2", 2, "give a number from 0 to 1, not '2'"),
        ("claims --out DIR/c --seeds 0", 2, "give a whole number, 1 or more, not '0'"),
        ("run diffex --out DIR/d --directions 1", 2, "give a whole number, 2 or more, not '1'"),
    ],
)
def test_it_is_said(tmp_path, words, status, said):
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").touch()

    def named(text):
        return text.replace("DIR", f"{tmp_path}/dir").replace("FILE", f"{tmp_path}/file")

    done = subprocess.run(
        [sys.executable, "-m", "training", *named(words).split()], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr
    assert named(said) in done.stderr.splitlines()[-1]
    assert not any((tmp_path / "dir" / name).exists() for name in "wcd")
