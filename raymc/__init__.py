"""raymc: prototype-contrastive classifiers of multi-label, fine-grained educational videos.

Start with `config/` for the settings, `training/` for a run, and `cli/main.py` for the commands.
"""

__version__ = "0.1.0"
