"""What a person wants to see of a data set before training; the command is `inspect_dataset.py`."""
