"""One LightningModule for every method, the trainer around it, and what happens beside it."""
