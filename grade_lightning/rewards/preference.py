"""A reward learned from preferences (Bradley-Terry) or from scores, by a head on the policy's own frozen base."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import BinaryAccuracy, BinaryCalibrationError
from torchmetrics.regression import R2Score, SpearmanCorrCoef

from grade_lightning.data.rated import Pair, Rated, contents_fingerprint, heldout_split, read_rows
from grade_lightning.models.base import BaseLM
from grade_lightning.models.cache import make_once
from grade_lightning.rewards.base import Completions, RewardInputs
from grade_lightning.rewards.head import PooledReward, RewardHead
from grade_lightning.rewards.head_training import features, fit_on_features
from grade_lightning.settings.reward import PreferenceHeadSettings

log = logging.getLogger(__name__)

VERSION = 3  # of everything below that changes the head; part of the cache key
CHANCE = 0.5


class PreferenceReward(PooledReward):
    """The scalar that the head gives to prompt and completion, its mean over the texts that it was trained on being 0.

    Of preferences: log-odds, the difference of two completions' rewards being the logit that the first is preferred.  See
    :class:`PooledReward` for its arguments.
    """

    def scoped(self, scope: str) -> PreferenceReward:
        """The same head with another scope."""
        return self if self.scope == scope else PreferenceReward(self._policy[0], self.head, scope=scope)

    def score(self, completions: Completions) -> Tensor:
        """[B]."""
        return self.outputs(completions)[:, 0]


def _pair_loss(head: RewardHead, chosen: Tensor, rejected: Tensor) -> Tensor:
    """-log sigmoid(r(chosen) - r(rejected)) (Bradley and Terry 1952)."""
    return -F.logsigmoid(head(chosen) - head(rejected)).mean()


def _score_loss(head: RewardHead, inputs: Tensor, scores: Tensor) -> Tensor:
    return F.mse_loss(head(inputs)[:, 0], scores)


@torch.no_grad()
def _pair_report(head: RewardHead, chosen: Tensor, rejected: Tensor) -> dict[str, float]:
    """Accuracy, log loss and expected calibration error (10 bins) of held-out pairs, each shown in a random order."""
    logits = (head(chosen) - head(rejected))[:, 0].cpu()
    sign = torch.randint(0, 2, logits.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    shown, truth = torch.sigmoid(logits * sign), (sign > 0).long()
    return {
        "heldout_pair_accuracy": float(BinaryAccuracy()(shown, truth)), "heldout_log_loss": float(-F.logsigmoid(logits).mean()),
        "heldout_calibration_error": float(BinaryCalibrationError(n_bins=10)(shown, truth)),
    }  # fmt: skip


@torch.no_grad()
def _score_report(head: RewardHead, inputs: Tensor, scores: Tensor) -> dict[str, float]:
    found, truth = head(inputs)[:, 0].cpu(), scores.cpu()
    return {"heldout_r2": float(R2Score()(found, truth)), "heldout_spearman": float(SpearmanCorrCoef()(found, truth))}


def _train_on_pairs(base: BaseLM, pairs: list[Pair], settings: PreferenceHeadSettings, folder: Path) -> None:
    learn, held = heldout_split(pairs, settings.heldout_share, settings.seed)
    chats = pairs[0].is_chat
    sides = {name: _features(base, [p.texts(base.tokenizer)[place] for p in pairs], settings, name, chats=chats)
             for place, name in enumerate(("chosen", "rejected"))}  # fmt: skip
    head = fit_on_features((sides["chosen"][learn], sides["rejected"][learn]), _pair_loss, settings, outputs=1)
    _save(head, torch.cat([sides["chosen"][learn], sides["rejected"][learn]]), folder, settings, {
        "pairs": len(learn), "heldout_pairs": len(held), **_pair_report(head, sides["chosen"][held], sides["rejected"][held]),
    })  # fmt: skip


def _train_on_scores(base: BaseLM, rated: list[Rated], settings: PreferenceHeadSettings, folder: Path) -> None:
    learn, held = heldout_split(rated, settings.heldout_share, settings.seed)
    inputs = _features(base, [row.text(base.tokenizer) for row in rated], settings, "rated texts", chats=rated[0].is_chat)
    scores = torch.tensor([row.score for row in rated], device=inputs.device)
    level, scale = scores[learn].mean(), scores[learn].std().clamp_min(1e-6)
    # Whatever unit the scores have.
    head = fit_on_features((inputs[learn], (scores[learn] - level) / scale), _score_loss, settings, outputs=1)
    with torch.no_grad():
        head.net[2].weight.mul_(scale)  # type: ignore[union-attr,operator]
        head.net[2].bias.mul_(scale).add_(level)  # type: ignore[union-attr,operator]
    found = {"rows": len(learn), "heldout_rows": len(held), **_score_report(head, inputs[held], scores[held])}
    _save(head, inputs[learn], folder, settings, found)


def _features(base: BaseLM, texts: list[str], settings: PreferenceHeadSettings, description: str, *, chats: bool) -> Tensor:
    encoded = base.tokenizer(texts, verbose=False, add_special_tokens=not chats)["input_ids"]  # as prompts are read
    longer = sum(len(ids) > settings.text_tokens for ids in encoded)
    if longer:
        log.warning(
            "%d of %d %s are longer than reward.head.text_tokens=%d and are cut at their end",
            longer, len(texts), description, settings.text_tokens,
        )  # fmt: skip
    return features(base, texts, settings.text_tokens, description=f"reading {description}", special=not chats)


def _save(head: RewardHead, inputs: Tensor, folder: Path, settings: PreferenceHeadSettings, report: dict[str, float]) -> None:
    """Write a head whose mean over its inputs is 0, and its report."""
    with torch.no_grad():
        head.net[2].bias.sub_(head(inputs).mean(dim=0))  # type: ignore[union-attr,operator]
    head.save(folder / "head.safetensors")
    (folder / "report.json").write_text(json.dumps({**report, "settings": asdict(settings)}, indent=1) + "\n")


def _check(report: dict[str, Any], path: str) -> None:
    """Refuse a head that does no better than chance on held-out rows: optimising it would mean nothing."""
    if "heldout_pairs" in report:
        accuracy, n = report["heldout_pair_accuracy"], report["heldout_pairs"]
        good = accuracy - 1.645 * math.sqrt(0.25 / n) > CHANCE
        said = f"prefers the chosen text in only {accuracy:.0%} of {n} held-out pairs, which is not above chance"
    else:
        good = report["heldout_r2"] > 0
        said = f"explains nothing of the held-out scores (R2 {report['heldout_r2']:.2f})"
    if not good:
        raise ValueError(
            f"the head trained on {path} {said}: give more rows, raise reward.head.epochs or reward.head.lr, or use a larger base LM"
        )


def preference(
    inputs: RewardInputs, *, path: str, objective: str, head: PreferenceHeadSettings, scope: str, hub_split: str, revision: str | None
) -> tuple[PreferenceReward, dict[str, Any]]:
    """The reward group's ``preference``, and its report.

    Args:
        inputs: lends the base; the head is trained on it once, and kept in the cache.
        path: a JSON Lines, CSV or Parquet file, a folder of such files, or a data set of the hub.
        objective: ``pairs`` (columns ``chosen``, ``rejected`` and perhaps ``prompt``) or ``scores`` (``completion``, ``score`` and perhaps
            ``prompt``).
        head: recipe.
        scope: see :class:`PooledReward`.
        hub_split: of a data set of the hub.
        revision: of its repository.

    Raises:
        ValueError: no such file, column or value; or a head that is no better than chance.
    """
    base = inputs.base
    rows = read_rows(path, objective, split=hub_split, revision=revision)
    dtype = str(base.model.dtype).removeprefix("torch.")
    ingredients = {
        "version": VERSION, "settings": asdict(head), "base": base.fingerprint, "dtype": dtype, "objective": objective,
        "rows": contents_fingerprint(rows),
    }  # fmt: skip

    def train(folder: Path) -> None:
        with inputs.policy.reference():
            (_train_on_pairs if objective == "pairs" else _train_on_scores)(base, rows, head, folder)

    folder = make_once("preference-head", ingredients, train)
    report = json.loads((folder / "report.json").read_text())
    _check(report, path)
    trained = RewardHead.load(folder / "head.safetensors").to(base.model.device)
    return PreferenceReward(inputs.policy, trained, scope=scope), report
