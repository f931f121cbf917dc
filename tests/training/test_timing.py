"""What a timing of the benchmark holds; no assertion on a duration."""

import time

import torch

from training.benchmark.timing import timed


def test_the_peak_is_what_a_call_takes_and_gives_back():
    calls = []

    def call(images):
        calls.append(len(images))
        held = torch.ones(16 << 20)  # 64 MiB
        time.sleep(0.05)
        return held.sum() + images.sum()

    figures = timed(call, torch.zeros(16, 1, 4, 4), 2)
    assert calls == [1, 1, 1, 16, 16, 16]
    assert 60 << 20 < figures["peak_bytes"] < 128 << 20
