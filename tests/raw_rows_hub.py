"""One hand-made raw row (for grouped sources: the rows of one prompt) for each source that reads a public hub data set.

Shapes are those of the hub data sets, the content is ours. No test stands here.
"""

USER = {"role": "user", "content": "Q"}


def said(*contents):
    """Messages of user and assistant by turns."""
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(contents)]


EXAMPLES: dict[str, list[dict]] = {
    "shp": [
        {
            "post_id": "p1",
            "domain": "askbaking_train",
            "history": "Why does bread rise? ",
            "c_root_id_A": "a1",
            "c_root_id_B": "b1",
            "human_ref_A": "Magic.",
            "human_ref_B": "Yeast makes gas.",
            "labels": 0,
            "score_A": 5,
            "score_B": 15,
            "score_ratio": 3.0,
            "seconds_difference": 60.0,
        }
    ],
    "helpsteer2_preference": [
        {
            "split": "val",
            "prompt": "Q\n<extra_id_1>Assistant\nA\n<extra_id_1>User\nQ2",
            "response_1": "worse",
            "response_2": "better",
            "preference_strength": 2,
            "preference_statement": "@Response 2 is better",
        }
    ],
    "helpsteer3": [
        {
            "domain": "code",
            "language": "python",
            "context": said("Q", "A", "Q2"),
            "response1": "better",
            "response2": "worse",
            "overall_preference": -2,
            "individual_preference": [{"score": -2, "reasoning": "r", "feedback1": "f", "feedback2": "f"}],
        }
    ],
    "pku_saferlhf_better": [
        {
            "prompt": "Q",
            "response_0": "useful and harmful",
            "response_1": "useless",
            "is_response_0_safe": False,
            "is_response_1_safe": True,
            "better_response_id": 0,
            "safer_response_id": 1,
        }
    ],
    "arena_55k": [
        {
            "id": 30192,
            "model_a": "m1",
            "model_b": "m2",
            "prompt": '["Q"]',
            "response_a": '["lost"]',
            "response_b": '["won"]',
            "winner_model_a": 0,
            "winner_model_b": 1,
            "winner_tie": 0,
        }
    ],
    "summarize_from_feedback": [
        {
            "info": {
                "id": "t3_1",
                "post": "I lost my keys. I found them.",
                "title": "Keys",
                "subreddit": "tifu",
                "site": None,
                "article": None,
            },
            "summaries": [{"text": " Keys lost.", "policy": "sup"}, {"text": " Keys lost and found.", "policy": "ref"}],
            "choice": 1,
            "worker": "w",
            "batch": "batch3",
            "split": "train",
            "extra": {"confidence": None},
        }
    ],
    "capybara": [
        {
            "source": "Dove",
            "chosen": said("Q", "A", "Q2", "good"),
            "rejected": said("Q", "A", "Q2", "bad"),
            "chosen_rating": 5,
            "rejected_rating": 3,
            "chosen_model": "m1",
            "rejected_model": "m2",
        }
    ],
    "orca_dpo": [
        {
            "system": "You are terse.",
            "input": "Q",
            "chosen": "good",
            "rejected": "bad",
            "generations": ["bad", "good"],
            "order": ["rejected", "chosen"],
            "rating": [4.0, 9.0],
            "status": "swapped",
            "chosen_score": 9.0,
            "in_gsm8k_train": True,
        }
    ],
    "ultrainteract": [
        {
            "task": "Math_CoT",
            "dataset": "gsm8k",
            "trajectory": [
                {"from": "user", "value": "1 + 1?"},
                {"from": "assistant", "value": "3"},
                {"from": "user", "value": "Observation: wrong."},
            ],
            "chosen": "2",
            "rejected": "4",
            "id": "abc_1_2",
            "parent_id": "abc",
        }
    ],
    "distilabel_math": [
        {
            "metadata": "{}",
            "instruction": "1 + 1?",
            "chosen_response": "2",
            "chosen_rating": 9.0,
            "rejected_response": "3",
            "rejected_rating": 7.5,
        }
    ],
    "skywork_80k": [{"chosen": said("Q", "good"), "rejected": said("Q", "bad"), "source": "magpie_pro"}],
    "trl_preference": [
        {
            "prompt": "Q",
            "prompt_id": "0",
            "chosen": said("Q", "good"),
            "rejected": said("Q", "bad"),
            "messages": said("Q", "good"),
            "score_chosen": 8.0,
            "score_rejected": 2.5,
        }
    ],
    "columns": [{"prompt": "Q", "chosen": "good", "rejected": "bad"}],
    "ultrafeedback": [
        {
            "source": "evol_instruct",
            "instruction": "Q",
            "models": ["m1", "m2", "m3"],
            "completions": [
                {
                    "model": f"m{number}",
                    "response": response,
                    "custom_system_prompt": "Be honest.",
                    "annotations": {"helpfulness": {"Rating": "4", "Rationale": "r"}},
                    "fine-grained_score": score,
                    "overall_score": 7.0,
                }
                for number, (response, score) in enumerate([("fair", 3.25), ("good", 4.5), ("poor", 1.0)], 1)
            ],
        }
    ],
    "helpsteer": [
        {"prompt": "Q", "response": "poor", "helpfulness": 1, "correctness": 2, "coherence": 4, "verbosity": 0},
        {"prompt": "Q", "response": "good", "helpfulness": 4, "correctness": 3, "coherence": 4, "verbosity": 0},
    ],
    "beavertails": [
        {"prompt": "Q", "response": "harm", "category": {"violence": True}, "is_safe": False},
        {"prompt": "Q", "response": "help", "category": {"violence": False}, "is_safe": True},
    ],
    "stack_exchange": [
        {
            "qid": 1,
            "question": "<p>How do I <b>loop</b>?</p>\n",
            "date": "2016/08/02",
            "metadata": ["https://ai.stackexchange.com", "https://ai.stackexchange.com/questions/1/"],
            "answers": [
                {"answer_id": 2, "author": "a", "pm_score": 0, "selected": False, "text": "<p>No idea.</p>"},
                {
                    "answer_id": 3,
                    "author": "b",
                    "pm_score": 4,
                    "selected": True,
                    "text": "<p>So:</p>\n\n<pre><code>for i in x:\n    f(i)\n</code></pre>\n",
                },
            ],
        }
    ],
    "nectar": [
        {
            "prompt": "\n\nHuman: Q\n\nAssistant: A\n\nHuman: Q2\n\nAssistant: ",
            "answers": [
                {"answer": "second", "model": "m1", "rank": 2.0},
                {"answer": "first", "model": "m2", "rank": 1.0},
            ],
            "turns": 2,
            "num_responses": 2,
            "source": ["lmsys-chat-1m"],
            "good_natured": True,
        }
    ],
    "code_ultrafeedback": [
        {
            "instruction": "Sort a list.",
            "preference": "readability",
            "models": ["m1", "m2"],
            "responses": [{"model": "m1", "response": "sorted(x)"}, {"model": "m2", "response": "x.sort"}],
            "annotations": [
                {"model": "m2", "rating": "2", "rationale": "r"},
                {"model": "m1", "rating": "5", "rationale": "r"},
            ],
        }
    ],
}
EXAMPLES["pku_saferlhf_safer"] = EXAMPLES["pku_saferlhf_better"]
EXAMPLES["helpsteer2"] = EXAMPLES["helpsteer"]
