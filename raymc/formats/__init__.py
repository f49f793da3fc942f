"""Other people's formats to rows, and the embedded dataset `digits`.

Each file turns one format's settings into a `DatasetRecipe` (`recipe.py`), which `make_dataset`
writes as shards; `prepare.py` finds the recipe that a configuration names. Start with `npz.py`.

To add a format NAME:
1. `raymc/config/formats.py`: the class of its settings, listed in `IMPORTERS` and `MakeConfig`.
   That gives `raymc import NAME` its options and `data.make` its section.
2. `raymc/formats/NAME.py`: a function from the settings to a `DatasetRecipe`. `arrays.py` checks
   arrays of labels, ids and splits; `annotations.py` joins annotations with extracted features.
3. `raymc/formats/prepare.py`: a line in `_RECIPES`.
4. `tests/formats/test_NAME.py`: rows against a slow reading of a small file, and one case for
   each documented error.
"""
