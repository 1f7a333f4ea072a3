"""The methods: one LightningModule each, over a common base."""

from grade_lightning.methods.grade import GRADE

__all__ = ["GRADE"]
