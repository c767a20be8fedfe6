"""Settings for every test: no hub, no deadline per hypothesis example (the machine may be busy), few threads."""

import os

from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers on two cores: more threads would wait for each other
settings.register_profile("default", deadline=None)
settings.load_profile("default")
