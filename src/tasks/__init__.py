"""What is learned from a batch. Add a task: subclass Task, implement ``evaluate``, name the class in a YAML."""

from src.tasks.base import Task
from src.tasks.classifier import Classifier
