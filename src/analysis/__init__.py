"""What stands behind `check` and `report`: statistics, duplicates, suspect labels, checks of a model, and pages."""
