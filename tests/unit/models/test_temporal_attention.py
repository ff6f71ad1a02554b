"""Exact: the read of TMA against the oracle and a softmax written out; behavioural: slots are the frames' own."""

import pytest
import torch

from models.layers.temporal_attention import TemporalAttention, read


@pytest.mark.parametrize(("scaled", "key"), [(False, "read_unscaled"), (True, "read_scaled")])
def test_tma_case_of_the_oracle(oracle, scaled, key):
    given = oracle["tma"]["inputs"]
    query, keys, values = (torch.tensor(given[name], dtype=torch.float64)[None] for name in ("q", "mem_k", "mem_v"))
    expected = torch.tensor(oracle["tma"]["expected"][key], dtype=torch.float64)
    torch.testing.assert_close(read(query, keys, values, scaled)[0], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("scaled", [False, True])
def test_the_module_equals_the_formula_written_out(scaled):
    module = TemporalAttention(6, 5, frames=2, keys=4, values=3, scaled=scaled).double().eval()
    current, *past = torch.randn(3, 2, 6, 3, 4, dtype=torch.float64)

    def flat(maps):
        return torch.cat([value.flatten(2) for value in maps], 2)

    query = flat([module.query_key(current)])  # (B, Ck, N)
    keys = flat([project(frame) for project, frame in zip(module.memory_keys, past, strict=True)])
    values = flat([project(frame) for project, frame in zip(module.memory_values, past, strict=True)])
    scores = torch.einsum("bcn,bcm->bnm", query, keys) / (2 if scaled else 1)
    found = torch.einsum("bnm,bcm->bcn", scores.softmax(-1), values).view(2, 3, 3, 4)
    expected = module.out(torch.cat([module.query_value(current), found], 1))
    torch.testing.assert_close(module(current, tuple(past)), expected)


def test_each_earlier_frame_has_projections_of_its_own():
    module = TemporalAttention(6, 5, frames=2, keys=4, values=3, scaled=False).eval()
    current, one, other = torch.randn(3, 1, 6, 3, 3)
    assert not torch.allclose(module(current, (one, other)), module(current, (other, one)))


def test_a_wrong_number_of_earlier_frames_is_refused():
    module = TemporalAttention(2, 2, frames=2, keys=2, values=2, scaled=False)
    with pytest.raises(ValueError, match="zip"):
        module(torch.randn(2, 2, 2, 2), (torch.randn(2, 2, 2, 2),))
