"""One thin LightningModule per stage."""
