"""The GPU benchmark on a CPU at a tiny size: that it runs the engine's own step and counts what it says."""

import torch
from benchmarks import gpu

SETTING = gpu.Setting(
    torch.device("cpu"),
    size="tiny",
    crop=64,
    classes=5,
    batch=2,
    steps=1,
    frame=(64, 96),
    widths=(("channels", 8), ("aux_channels", 8), ("memory_channels", 8), ("tma_key", 4), ("tma_value", 8)),
)


def test_every_line_is_measured():
    lines = gpu.measure(SETTING, "bf16", lambda said: None)
    assert len(lines) == 2 + 6 + 16 + 1
    assert all(line.tflops > 0 for line in lines)
    assert all(line.ms > 0 for line in lines[2:])
    assert "decoder_a+decoder_b, frame 64 × 96, stages 0-3" in gpu.table(lines)


def test_no_gpu_is_said_in_a_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 3
    assert capsys.readouterr().out.count("\n") == 1
