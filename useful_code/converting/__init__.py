"""The parts of `convert_dataset.py` and `mix_datasets.py`."""
