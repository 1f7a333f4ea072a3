"""Policy, reference, LoRA and dropout."""

import pytest
import torch
from safetensors.torch import load_file

from grade_lightning.estimators import SoftTokens
from grade_lightning.models.base import load_base
from grade_lightning.models.policy import Policy, positions_of
from tests.conftest import make_batch, make_policy


def hidden_of(policy, batch):
    return policy.hidden(policy.embed(batch.ids), batch.mask)


def test_positions_ignore_padding():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]], dtype=torch.bool)
    assert positions_of(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 3]]


def test_reference_is_the_untouched_base(model_folder):
    untouched = load_base(str(model_folder), precision="fp64")
    _, policy = make_policy(model_folder)
    batch = make_batch(policy)
    expected = untouched.model.model(input_ids=batch.ids, attention_mask=batch.mask.long(), position_ids=positions_of(batch.mask))
    with torch.no_grad(), policy.reference():
        found = hidden_of(policy, batch)
    # The untouched model's norms compute in fp32.
    torch.testing.assert_close(found[batch.mask], expected.last_hidden_state.double()[batch.mask], rtol=1e-4, atol=2e-6)
    with torch.no_grad():
        assert not torch.allclose(hidden_of(policy, batch)[batch.mask], found[batch.mask])


def test_same_seed_same_adapters_and_global_generator_untouched(model_folder):
    base = load_base(str(model_folder))
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first = {name: weight.clone() for name, weight in Policy(base, seed=3).trainable().items()}
    assert torch.equal(torch.rand(1), expected)
    second = Policy(load_base(str(model_folder)), seed=3).trainable()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert len(first) == 2 * 4 * 2  # A and B of four projections in two layers


def test_soft_embedding_is_the_weighted_sum(policy64):
    torch.manual_seed(0)
    indices = torch.randint(0, 320, (2, 3, 5))
    weights = torch.rand(2, 3, 5, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    upstream = torch.randn(2, 3, 32, dtype=torch.float64)
    expected = (weights.unsqueeze(-1) * policy64.embedding[indices]).sum(2)
    expected = torch.where(mask[..., None], expected, policy64.embedding[policy64.pad_id])
    found = policy64.embed_soft(SoftTokens(indices, weights, indices[..., 0]), mask)
    torch.testing.assert_close(found, expected)
    grads = [torch.autograd.grad((value * upstream).sum(), weights)[0] for value in (found, expected)]
    torch.testing.assert_close(*grads)


def test_dropout_masks_belong_to_row_and_position(model_folder):
    """The same rows in another split, with other padding, are dropped alike; another step is not."""
    _, policy = make_policy(model_folder, dropout=0.4)
    batch = make_batch(policy)
    with torch.no_grad():
        with policy.dropout(0, 1, batch.rows):
            together = hidden_of(policy, batch)
        alone = []
        for row in range(4):
            width = int(batch.mask[row].sum())
            with policy.dropout(0, 1, batch.rows[row : row + 1]):
                alone.append(policy.hidden(policy.embed(batch.ids[row : row + 1, -width:]), batch.mask[row : row + 1, -width:]))
        with policy.dropout(0, 2, batch.rows):
            later = hidden_of(policy, batch)
        plain = hidden_of(policy, batch)
    for row in range(4):
        torch.testing.assert_close(together[row][batch.mask[row]], alone[row][0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(together[batch.mask], later[batch.mask])
    assert not torch.allclose(together[batch.mask], plain[batch.mask])


def test_dropout_rate_and_mean():
    from grade_lightning.models.dropout import KeyedDropout

    layer = KeyedDropout(0.3, 0)
    KeyedDropout.activate([layer], 0, 1, torch.arange(50))
    KeyedDropout.set_positions([layer], torch.arange(40).expand(50, 40))
    x = layer(torch.ones(50, 40, 64))
    assert float((x == 0).float().mean()) == pytest.approx(0.3, abs=0.005)
    assert float(x.mean()) == pytest.approx(1.0, abs=0.01)
    rows = (x[:, 0] == 0).float()
    assert torch.corrcoef(rows)[~torch.eye(50, dtype=torch.bool)].abs().mean() < 0.2
    KeyedDropout.deactivate([layer])
    assert torch.equal(layer(torch.ones(2, 3, 4)), torch.ones(2, 3, 4))


def test_adapter_is_saved_in_peft_layout_without_the_base(policy64, tmp_path):
    policy64.save_adapter(tmp_path)
    state = load_file(str(tmp_path / "adapter_model.safetensors"))
    assert {"lora_A", "lora_B"} == {part for name in state for part in name.split(".") if part.startswith("lora_")}
    assert (tmp_path / "adapter_config.json").exists()
    assert sum(value.numel() for value in state.values()) == sum(w.numel() for w in policy64.trainable().values())


def test_saved_adapter_loads_with_peft(model_folder, tmp_path):
    from peft import PeftModel

    _, policy = make_policy(model_folder, precision="fp32")
    policy.save_adapter(tmp_path)
    loaded = PeftModel.from_pretrained(load_base(str(model_folder)).model, str(tmp_path))
    batch = make_batch(policy)
    with torch.no_grad():
        expected = policy.logits(hidden_of(policy, batch))
        found = loaded(input_ids=batch.ids, attention_mask=batch.mask.long(), position_ids=positions_of(batch.mask)).logits
    torch.testing.assert_close(found[batch.mask], expected[batch.mask], rtol=1e-4, atol=1e-4)


def test_unknown_layers_are_named(model_folder):
    with pytest.raises(ValueError, match=r"no layers \['c_attn'\].*q_proj"):
        Policy(load_base(str(model_folder)), target_modules=["c_attn"])


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_adapters_sit_between_embeddings_and_head(model_folder, target):
    """The KL's and the relaxation's gradients hold both fixed."""
    with pytest.raises(ValueError, match=f"{target}.*stay fixed"):
        Policy(load_base(str(model_folder)), target_modules=["q_proj", target])


@pytest.mark.parametrize(
    ("remove", "message"),
    [("*.safetensors", "no .*safetensors weights"), ("tokenizer.json", "no tokenizer"), ("config.json", "no config.json")],
)
def test_incomplete_model_folder(model_folder, tmp_path, remove, message):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    for file in folder.glob(remove):
        file.unlink()
    with pytest.raises(ValueError, match=message):
        load_base(str(folder))


def test_pickled_weights_are_refused(model_folder, tmp_path):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="convert them to safetensors"):
        load_base(str(folder))


def test_unreachable_hub_says_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="model=local"):
        load_base("nobody/no-such-model")
