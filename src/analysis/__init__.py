"""Behind `check` and `report`: statistics, pages, and what is found in data, a model, its training and its runs."""
