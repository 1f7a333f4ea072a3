"""Times for a person; imports nothing."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Seconds for a person: ``41 s``, ``3 min 05 s``, ``2 h 07 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
