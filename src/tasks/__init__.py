"""Tasks: what to learn from a batch. Add one: subclass Task, implement ``evaluate``, name the class in a YAML."""

from src.tasks.autoencoder import Autoencoder
from src.tasks.base import Task
from src.tasks.classifier import Classifier
from src.tasks.distiller import Distiller
from src.tasks.embedder import Embedder
from src.tasks.multi_label import MultiLabel
from src.tasks.regressor import Regressor
from src.tasks.segmenter import Segmenter
