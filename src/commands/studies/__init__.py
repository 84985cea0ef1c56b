"""Studies: many runs of one config, behind ``search``. Only ``worker`` imports torch, only ``storage`` Optuna."""
