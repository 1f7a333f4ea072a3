"""Numbers that the paper published (Tables 1 and 2, Appendix B.2)."""

from __future__ import annotations

from typing import Any, NamedTuple


class Published(NamedTuple):
    """A row of the paper's Table 1; ``grad_norm_spread`` is its "Grad Var"."""

    test_mean: float
    test_std: float
    best_validation: float
    grad_norm_spread: float | None
    gap: float
    stability: float


TABLE1 = {
    "grade": Published(0.590, 0.393, 0.587, 68.44, -0.003, 0.0107),
    "grade_ste": Published(0.763, 0.344, 0.686, 0.003, -0.077, 0.0552),
    "ppo": Published(0.510, 0.313, 0.573, None, 0.063, 0.0298),
    "reinforce": Published(0.617, 0.378, 0.654, 0.050, 0.037, 0.0255),
}

# Table 2: t of the first method's last training rewards against the second's.
TABLE2 = {
    ("grade", "ppo"): -4.82, ("grade", "reinforce"): -5.66, ("grade", "grade_ste"): -8.61, ("ppo", "reinforce"): -0.46,
    ("ppo", "grade_ste"): -4.37, ("reinforce", "grade_ste"): -4.09,
}  # fmt: skip


PROTOCOLS = ("paper", "released")
_IMDB = ("parquet", "aclimdb", "hub")  # groups of conf/data that read IMDB


def comparable_with_paper(results: dict[str, Any], config: dict[str, str]) -> bool:
    """Whether published numbers may stand beside a run's: reviews of IMDB under one of the paper's protocols."""
    data = str(results.get("data"))
    imdb = "imdb" in data.lower() or (data in _IMDB and not (data == "hub" and "imdb" not in config.get("data.path", "imdb").lower()))
    return imdb and results.get("protocol") in PROTOCOLS
