"""Training: the miniature, DPO with its log, checkpoints and watchdog, and the merge of the adapter into the base."""
