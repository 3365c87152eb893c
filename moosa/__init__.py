"""A notebook-first, reproducible research kit for multimodal open-set domain generalization and adaptation"""

__version__ = "0.1.0"
