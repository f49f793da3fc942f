"""raymc: prototype-contrastive classifiers of multi-label, fine-grained educational videos."""

__version__ = "0.1.0"
