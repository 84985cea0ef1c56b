"""Tasks: what to learn from a batch. Add one: subclass Task, implement ``evaluate``, name the class in a YAML."""

from src.tasks.base import Task
from src.tasks.classifier import Classifier
