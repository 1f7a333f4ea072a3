"""Settings with named values, and which of them go together."""

from __future__ import annotations

from grade_lightning.chain.logprobs import LOGPROBS
from grade_lightning.estimators import SAMPLED_KL

CHOICES = {
    "kl_reduction": ("token_mean", "sequence"),
    "kl_in": ("loss", "reward", "none"),
    "kl_estimator": ("exact", *SAMPLED_KL, "k1_mean"),
    "kl_alignment": ("correct", "shifted"),
    "logprobs": LOGPROBS,
    "optimizer": ("adamw", "sgd"),
}


def check_kl(kl_in: str, kl_estimator: str, kl_alignment: str, *, relaxed: bool) -> None:
    """Raise ValueError for a KL that a method cannot use.

    Args:
        relaxed: of a method that differentiates through relaxed tokens.
    """
    if relaxed and (kl_in == "reward" or kl_estimator != "exact"):
        raise ValueError(
            "GRADE differentiates the exact KL as part of its loss: use protocol.kl_in=loss or none and protocol.kl_estimator=exact"
        )
    if not relaxed and kl_alignment == "shifted":
        raise ValueError("protocol.kl_alignment=shifted is measured by GRADE alone: leave it at correct for other methods")
    if kl_in == "reward" and kl_estimator not in ("k1", "k1_mean"):
        raise ValueError(
            f"protocol.kl_in=reward with protocol.kl_estimator={kl_estimator} has not the gradient of the KL: a reward credits a token "
            "with its own KL only through log p - log q of that token. Add protocol.kl_estimator=k1, or use protocol.kl_in=loss"
        )


def check_choices(**chosen: str) -> None:
    """Raise ValueError for an unknown value of one of the settings in ``CHOICES``."""
    for name, value in chosen.items():
        if value not in CHOICES[name]:
            key = "optimizer.name" if name == "optimizer" else f"protocol.{name}"
            raise ValueError(f"{key}={value} is unknown: use one of {', '.join(CHOICES[name])}")
