"""No attention whose gradients are not finite."""

import pytest
import torch

from tests.conftest import make_policy


def test_a_policy_leaves_cudnns_attention_out_and_nothing_else(model_folder):
    torch.backends.cuda.enable_cudnn_sdp(True)
    make_policy(model_folder)
    backends = torch.backends.cuda
    assert not backends.cudnn_sdp_enabled()
    assert [backends.flash_sdp_enabled(), backends.mem_efficient_sdp_enabled(), backends.math_sdp_enabled()] == [True] * 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("length", [63, 64, 128, 192])
def test_gradients_of_padded_rows_are_finite_in_bf16(model_folder, length):
    _, policy = make_policy(model_folder, precision="bf16")
    policy = policy.cuda()
    ids = torch.randint(2, policy.vocab_size, (4, length), device="cuda")
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, :5], mask[3, :1] = False, False
    policy.hidden(policy.embed(ids), mask)[mask].float().square().sum().backward()
    assert all(weight.grad.isfinite().all() for weight in policy.trainable().values())
