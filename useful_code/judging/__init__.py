"""An instruction model as judge, without training: `judge.py` and `eval_reward_bench_judge.py` are thin over this."""
