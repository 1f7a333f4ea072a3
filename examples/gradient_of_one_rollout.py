"""The gradient of a reward of your own through text that your own model wrote: python examples/gradient_of_one_rollout.py MODEL_FOLDER."""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grade_lightning.chain.gradient import gradient
from grade_lightning.data.prompts import batch_of
from grade_lightning.estimators import gumbel_noise
from grade_lightning.models.base import as_base
from grade_lightning.models.policy import Policy
from grade_lightning.rollout.sampling import sample
from grade_lightning.rollout.types import RolloutSettings


class ShareOfTokens:
    """A reward that is differentiable in relaxed tokens: the share of a completion's tokens that stand in a list."""

    differentiable, soft, reads_states, range = True, True, False, (0.0, 1.0)

    def __init__(self, wanted: list[int], vocabulary: int):
        self.vocabulary = vocabulary
        self.wanted = torch.zeros(vocabulary).index_fill(0, torch.tensor(wanted), 1.0)

    def score(self, completions):
        tokens = completions.soft
        found = self.wanted[completions.ids] if tokens is None else (tokens.weights * self.wanted[tokens.indices]).sum(-1)
        return (found * completions.mask).sum(1) / completions.mask.sum(1)

    def scoped(self, scope):
        return None


model, tokenizer = AutoModelForCausalLM.from_pretrained(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
policy = Policy(as_base(model, tokenizer), r=8)
prompts = batch_of(["I watched this film", "The actors", "What a"], policy.tokenizer)
lengths = RolloutSettings(max_new_tokens=16, top_k=64)
rollout = sample(policy, prompts, gumbel_noise((3, 16, 64), generator=torch.Generator().manual_seed(0)), lengths)
reward = ShareOfTokens(tokenizer(" good great wonderful")["input_ids"], policy.vocab_size)
found = gradient(policy, rollout, reward, kl_coef=0.1, tau=2.0)
print(*tokenizer.batch_decode(rollout.completion_ids, skip_special_tokens=True), sep="\n")
print("length of the gradient:", float(torch.stack([part.norm() for part in found.values()]).norm()))
