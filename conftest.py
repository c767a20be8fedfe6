"""Settings for every test: no hub, no deadline (the machine may be busy), few threads, no GPU unless asked, Ctrl-C."""

import os
import signal

from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers on two cores: more threads would wait for each other
settings.register_profile("default", deadline=None)
settings.load_profile("default")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell tells what it runs in the background to ignore it


def pytest_configure(config) -> None:
    """On any machine the same tests: those that need a GPU see it, with `-m gpu`; all others run on the CPU."""
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # no test has imported torch yet; processes inherit it
