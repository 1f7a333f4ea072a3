"""Evaluation: one hard sample a prompt, its reward, its exact KL, and the diversity of all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from grade_lightning.chain.logprobs import surprisal, token_statistics
from grade_lightning.chain.parallel import Frozen, hard_hidden, read_frozen
from grade_lightning.data.prompts import PromptBatch
from grade_lightning.evaluation.diversity import distinct_n, entropy_n, msttr, repeated_n
from grade_lightning.evaluation.judges import judged
from grade_lightning.measurements import is_judged_or_part
from grade_lightning.models.policy import Policy
from grade_lightning.rewards.base import Reward
from grade_lightning.rollout.noise import evaluation_noise
from grade_lightning.rollout.sampling import sample
from grade_lightning.rollout.types import Rollout, RolloutSettings


@dataclass(frozen=True)
class EvaluatedPrompt:
    """One prompt of an evaluation.

    Attributes:
        row: place of the prompt in the split's (sub)set.
        key: stable id of the prompt.
        label: sentiment of the review that the prompt opens.
        reward: reward of prompt and completion.
        kl: exact KL summed over the completion's real tokens, in nats.
        tokens: number of real completion tokens.
        ended: whether the completion met its end of sequence.
        ids: token ids of the completion.
        prompt: the prompt's text.
        completion: the completion's text.
        details: further measurements; empty where they were not asked for.  ``nll`` and ``perplexity`` of the completion under the
            reference, ``completion_reward`` without the prompt, ``distinct_1`` to ``distinct_3``, ``repeated_4``, ``judge`` and
            ``judge_NAME``, ``reward_NAME`` of each part of a reward.
    """

    row: int
    key: int
    label: int
    reward: float
    kl: float
    tokens: int
    ended: bool
    ids: tuple[int, ...]
    prompt: str
    completion: str
    details: Mapping[str, float] = field(default_factory=dict)

    def measurements(self) -> dict[str, float]:
        """Every number of this prompt, for the record: to six significant digits."""
        exact = {"reward": self.reward, "kl": self.kl, "tokens": self.tokens, "ended": int(self.ended), **self.details}
        return {name: value if isinstance(value, int) else float(f"{value:.6g}") for name, value in exact.items()}

    def sample(self) -> dict[str, Any]:
        """Texts and numbers, as ``samples.jsonl`` holds them."""
        return {"prompt": self.prompt, "completion": self.completion, "prompt_id": self.key, "label": self.label, **self.measurements()}


@torch.no_grad()
def evaluate_batch(
    policy: Policy,
    reward: Reward,
    prompt: PromptBatch,
    settings: RolloutSettings,
    *,
    seed: int,
    initial: bool = False,
    detailed: bool = False,
    judges: Mapping[str, Reward] | None = None,
) -> list[EvaluatedPrompt]:
    """Sample, score and measure one batch; noise is keyed by (seed, prompt id) and rows do not influence each other.

    Args:
        policy: what writes the completions.
        reward: what scores them.
        prompt: B prompts.
        settings: how completions are sampled.
        seed: seed of the evaluation noise.
        initial: sample from the reference (adapters disabled): what the policy was before training.
        detailed: measure diversity within each completion and the reward of the completion alone as well.
        judges: rewards that nothing optimises, by name; with them (and with ``detailed``) fluency is measured.
    """
    noise = evaluation_noise(seed, prompt.keys, settings.max_new_tokens, settings.top_k)
    if initial:
        with policy.reference():
            rollout = sample(policy, prompt, noise, settings)
    else:
        rollout = sample(policy, prompt, noise, settings)
    frozen = read_frozen(policy, reward, rollout)
    kl = torch.zeros(len(prompt)) if initial else _sequence_kl(policy, rollout, frozen.reference_hidden)
    prompts = [_describe(policy, rollout, row, frozen.scored.scores, kl) for row in range(len(prompt))]
    columns = {f"reward_{name}": part.tolist() for name, part in frozen.scored.parts.items()}
    if detailed or judges:
        columns |= _fluency(policy, rollout, frozen)
    if detailed:
        columns |= _details(reward, frozen, prompts)
    columns |= judged(judges or {}, frozen.completions)
    return [replace(p, details={name: values[row] for name, values in columns.items()}) for row, p in enumerate(prompts)]


def _sequence_kl(policy: Policy, rollout: Rollout, reference_hidden: torch.Tensor) -> torch.Tensor:
    return token_statistics(policy, rollout, hard_hidden(policy, rollout), reference_hidden).kl.sum(dim=1).cpu()


def _fluency(policy: Policy, rollout: Rollout, frozen: Frozen) -> dict[str, list[float]]:
    """``nll`` of the completion under the reference, summed, in nats, and ``perplexity``, its exponential per token."""
    nll = surprisal(policy, rollout, frozen.reference_hidden).sum(dim=1).tolist()
    lengths = rollout.mask.sum(dim=1).tolist()
    return {"nll": nll, "perplexity": [math.exp(total / max(1, tokens)) for total, tokens in zip(nll, lengths, strict=True)]}


def _details(reward: Reward, frozen: Frozen, prompts: list[EvaluatedPrompt]) -> dict[str, list[float]]:
    """``completion_reward`` (of the completion without its prompt), ``distinct_1`` to ``distinct_3`` and ``repeated_4`` within it."""
    apart = reward.scoped("completion")
    columns = {} if apart is None else {"completion_reward": apart.score(frozen.completions.with_states(None)).tolist()}
    columns |= {f"distinct_{n}": [distinct_n([p.ids], n) for p in prompts] for n in (1, 2, 3)}
    return {**columns, "repeated_4": [repeated_n(p.ids, 4) for p in prompts]}


def _describe(policy: Policy, rollout: Rollout, row: int, scores: torch.Tensor, kl: torch.Tensor) -> EvaluatedPrompt:
    prompt, decode = rollout.prompt, policy.tokenizer.decode
    ids = tuple(rollout.completion_ids[row][rollout.mask[row]].tolist())
    return EvaluatedPrompt(
        row=int(prompt.rows[row]), key=prompt.keys[row], label=int(prompt.labels[row]), reward=float(scores[row]), kl=float(kl[row]),
        tokens=len(ids), ended=ids[-1] in policy.eos_ids, ids=ids,
        prompt=str(decode(prompt.ids[row][prompt.mask[row]], skip_special_tokens=True)),
        completion=str(decode(list(ids), skip_special_tokens=True)),
    )  # fmt: skip


def summarise(prompts: list[EvaluatedPrompt]) -> dict[str, Any]:
    """Means over prompts in split order; ``reward_std`` with ddof 0; KL in nats per real token over all tokens, and per completion.

    Of what was measured beyond that: perplexity under the reference over all tokens, the means of judges and of a reward's parts, and with
    details diversity of the words (MSTTR, entropies of unigrams and bigrams in bits), as RL4LMs reports it (2210.01241).
    """
    ordered = sorted(prompts, key=lambda prompt: prompt.row)
    rewards = np.asarray([prompt.reward for prompt in ordered])
    tokens = sum(prompt.tokens for prompt in ordered)
    summary: dict[str, Any] = {
        "reward_mean": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "n": len(ordered),
        "kl_mean": math.fsum(prompt.kl for prompt in ordered) / max(1, tokens),
        "kl_sequence_mean": math.fsum(prompt.kl for prompt in ordered) / len(ordered),
        "length_mean": tokens / len(ordered),
        "eos_rate": float(np.mean([prompt.ended for prompt in ordered])),
    }
    for n in (1, 2, 3):
        summary[f"distinct_{n}"] = distinct_n((prompt.ids for prompt in ordered), n)
    details = ordered[0].details
    if "nll" in details:
        summary["perplexity"] = math.exp(math.fsum(prompt.details["nll"] for prompt in ordered) / max(1, tokens))
    if "repeated_4" in details:
        texts = [prompt.completion for prompt in ordered]
        summary |= {"msttr": msttr(texts), "entropy_1": entropy_n(texts, 1), "entropy_2": entropy_n(texts, 2)}
    averaged = [name for name in details if name in ("completion_reward", "repeated_4") or is_judged_or_part(name)]
    return summary | {f"{name}_mean": float(np.mean([prompt.details[name] for prompt in ordered])) for name in averaged}
