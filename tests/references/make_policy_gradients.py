"""Values of other libraries for tests/estimators/test_policy_gradients.py: run it where torchrl and trl are installed.

    python tests/references/make_policy_gradients.py [FILE]

GAE and the clipped loss come from torchrl, RLOO's and GRPO's advantages from TRL's trainers (one step each with a tiny model, on
the rewards that the trainers themselves computed).
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
from torch.distributions import Categorical
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value.functional import generalized_advantage_estimate

LENGTHS = [7, 4, 1, 6]


def gae_case() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(4, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.arange(7) < torch.tensor(LENGTHS)[:, None]
    advantages = torch.zeros_like(values)
    for row, length in enumerate(LENGTHS):  # one episode at a time: no convention for padding is needed
        own = values[row, :length, None]
        following = torch.cat([own[1:], torch.zeros(1, 1, dtype=own.dtype)])
        done = torch.zeros(length, 1, dtype=torch.bool)
        done[-1] = True
        found, _ = generalized_advantage_estimate(0.99, 0.95, own, following, rewards[row, :length, None], done, done)
        advantages[row, :length] = found[:, 0]
    return {"rewards": rewards.tolist(), "values": values.tolist(), "mask": mask.tolist(), "advantages": advantages.tolist()}


def clip_case() -> dict[str, Any]:
    """Tokens of one flat batch; gradients with respect to the logits of each token."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(24, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(5, (24,), generator=generator)
    old = torch.log_softmax(logits.detach() + 0.4 * torch.randn(24, 5, generator=generator, dtype=torch.float64), -1)
    old = old.gather(-1, tokens[:, None])[:, 0]
    advantages = torch.randn(24, generator=generator, dtype=torch.float64)
    module = TensorDictModule(lambda logits: logits, in_keys=["logits_in"], out_keys=["logits"])
    head = ProbabilisticTensorDictModule(in_keys=["logits"], out_keys=["action"], distribution_class=Categorical, return_log_prob=True)
    loss = ClipPPOLoss(ProbabilisticTensorDictSequential(module, head), None, clip_epsilon=0.2, entropy_bonus=False, critic_coeff=None)
    data = TensorDict({"logits_in": logits, "action": tokens, "action_log_prob": old, "advantage": advantages[:, None]}, [24])
    value = loss(data)["loss_objective"]
    value.backward()
    return {
        "logits": logits.tolist(), "tokens": tokens.tolist(), "old_logprobs": old.tolist(), "advantages": advantages.tolist(),
        "cliprange": 0.2, "loss": value.item(), "gradient": logits.grad.tolist(),
    }  # fmt: skip


def group_case(kind: str, folder: Path, **options: Any) -> dict[str, Any]:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    trainer_class, config_class = {"rloo": (RLOOTrainer, RLOOConfig), "grpo": (GRPOTrainer, GRPOConfig)}[kind]
    seen: dict[str, Any] = {}

    class Spy(trainer_class):  # type: ignore[misc,valid-type]
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            output = super()._generate_and_score_completions(inputs)
            seen["advantages"] = output["advantages"].double().tolist()
            return output

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        seen["scores"] = [sum(i % 7 for i in ids) / (7 * len(ids)) for ids in completion_ids]
        return seen["scores"]

    config = config_class(
        output_dir=str(folder / kind), max_steps=1, per_device_train_batch_size=8, num_generations=4, max_completion_length=6,
        report_to=[], use_cpu=True, bf16=False, beta=0.0, seed=0, save_strategy="no", disable_tqdm=True, **options,
    )  # fmt: skip
    data = Dataset.from_dict({"prompt": ["The film", "A story", "It was", "Nobody"]})
    Spy(model=str(folder / "model"), reward_funcs=reward, args=config, train_dataset=data).train()
    return {name: torch.tensor(seen[name], dtype=torch.float64).view(2, 4).tolist() for name in ("scores", "advantages")}


def tiny_model(folder: Path) -> None:
    from grade_lightning.models.pretraining import PretrainSettings, build_model, train_tokenizer

    shape = PretrainSettings(vocab_size=300, hidden_size=32, layers=1, heads=2, kv_heads=1, mlp_size=32, context=64)
    torch.manual_seed(0)
    build_model(shape).save_pretrained(folder / "model")
    train_tokenizer(iter(["The film was a story that nobody saw."]), 300).save_pretrained(folder / "model")


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("policy_gradients.json")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_model(folder)
        values = {
            "versions": {library: version(library) for library in ("torch", "torchrl", "trl")},
            "gae": gae_case(), "clip": clip_case(),
            "rloo": group_case("rloo", folder), "grpo": group_case("grpo", folder, scale_rewards="group"),
            "dr_grpo": group_case("grpo", folder, scale_rewards="none"),
        }  # fmt: skip
    target.write_text(json.dumps(values, indent=None) + "\n")


if __name__ == "__main__":
    main()
