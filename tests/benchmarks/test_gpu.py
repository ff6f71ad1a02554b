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
    found = gpu.goals(lines, "bf16")
    assert len(found) == 4
    shares = [line.share for line in lines if line.what.startswith("train ") and line.precision == "bf16"]
    assert found[0][1:] == (f"{min(shares):.0%}", min(shares) >= 0.45)


def test_goals_are_judged_by_the_worst_line_and_by_what_did_not_fit():
    def line(what: str, precision: str, ms: float | None, peak: float, share: float) -> gpu.Line:
        return gpu.Line(what, precision, ms, peak, 18.0, 300.0, share)

    lines = [
        *(line("train a", "bf16", 50.0, 20.0, 0.5), line("train b", "bf16", 60.0, 31.0, 0.46)),
        *(line("train a", "fp32", 200.0, 30.0, 0.5), line("train b", "fp32", 180.0, 40.0, 0.5)),
        *(line("a, window 512², stage 0", "bf16", 9.0, 5.0, 0.6), line("b, window, stage 0", "bf16", 9.0, 5.0, 0.4)),
    ]
    found = [(figure, met) for _, figure, met in gpu.goals(lines, "bf16")]
    assert found == [("46%", True), ("40%", False), ("31.0 GiB", True), ("3.00", True)]
    lines[1] = line("train b", "bf16", None, 79.0, 0.0)
    found = [(figure, met) for _, figure, met in gpu.goals(lines, "bf16")]
    assert found[2:] == [("out of memory", False), ("not all steps fit into memory", False)]


def test_a_profile_names_operations():
    said = gpu.profile(SETTING, "decoder_a", "fp32")
    assert "a step of decoder_a" in said
    assert "a window of decoder_a, stages 0-3" in said
    assert "aten::" in said


def test_no_gpu_is_said_in_a_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 3
    assert capsys.readouterr().out.count("\n") == 1
