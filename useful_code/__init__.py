"""What would be a bug if two recipes disagreed on it: one small module per question.

`chat_pairs` what a valid row is, `read_rows` how files are read and nothing is lost, `render` how a chat becomes
tokens, `shared_prefix` how a prompt is computed once for all its responses, `reward_model` how a scalar reward
model is loaded and called, `training` what every training run shares, `score` and `eval_reward_bench_bt` how a model
is used, `rewardbench` the benchmark's tables and maths, `known_truth` data whose true utility is known, `metrics` and
`report` what a person looks at. Nothing here imports a recipe.
"""
