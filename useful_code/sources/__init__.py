"""Public preference data, one plain function per source; `table.py` lists them all."""
