"""One hand-made raw row for each source of rated answers and of solutions with labelled steps; no test in here.

Shapes are those of the data sets, the content is ours.
"""


def said(*contents):
    """Messages of user and assistant by turns."""
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(contents)]


def ultrafeedback_answer(response, overall, *ratings):
    """A completion of UltraFeedback; the ratings are of instruction following, truthfulness, honesty, helpfulness."""
    aspects = ("instruction_following", "truthfulness", "honesty", "helpfulness")
    return {
        "model": "m",
        "principle": "helpfulness",
        "custom_system_prompt": "Be useful.",
        "response": response,
        "annotations": {aspect: {"Rating": r, "Rationale": "r"} for aspect, r in zip(aspects, ratings, strict=True)},
        "critique": "c",
        "fine-grained_score": 3.5,
        "overall_score": overall,
    }


def completion(text, rating):
    """A completion of PRM800K."""
    return {"text": text, "rating": rating, "flagged": False}


def chosen(index, *completions, human=None):
    """A step of PRM800K."""
    written = human and {"text": human, "rating": None, "source": "human", "flagged": False}
    return {"completions": list(completions), "human_completion": written, "chosen_completion": index}


_HELPSTEER = {"response": "a", "helpfulness": 3, "correctness": 4, "coherence": 4, "complexity": 0, "verbosity": 2}

EXAMPLES: dict[str, list[dict]] = {
    "helpsteer_ratings": [{"prompt": "Q", **_HELPSTEER}],
    "helpsteer2_ratings": [{"prompt": "Q\n<extra_id_1>Assistant\nA\n<extra_id_1>User\nQ2", **_HELPSTEER}],
    "ultrafeedback_ratings": [
        {
            "source": "evol_instruct",
            "instruction": "Q ",
            "models": ["m", "m"],
            "completions": [
                ultrafeedback_answer("a", 7.5, "4", "5", "N/A", "3"),
                ultrafeedback_answer("b", 1.0, "1", "1", "2", "1"),
            ],
            "correct_answers": ["None"],
            "incorrect_answers": ["None"],
        }
    ],
    "beavertails_ratings": [{"prompt": "Q", "response": "a", "category": {"violence": True}, "is_safe": False}],
    "prometheus_ratings": [
        {
            "instruction": "###Task Description: ...",
            "output": "Feedback: ... [RESULT] 2",
            "orig_instruction": "Greet me.\n",
            "orig_response": "Hi.",
            "orig_reference_answer": "Hello, friend!",
            "orig_criteria": "Is it warm?",
            "orig_score1_description": "Cold.",
            "orig_score": "2",
            "orig_feedback": "f",
        }
    ],
    "capybara_ratings": [
        {
            "source": "Dove",
            "chosen": said("Q", "A", "Q2", "good"),
            "chosen_rating": 5,
            "chosen_model": "m1",
            "rejected": said("Q", "A", "Q2", "bad "),
            "rejected_rating": 2,
            "rejected_model": "m2",
        }
    ],
    "orca_ratings": [
        {
            "system": "Be brief.",
            "input": "Q",
            "chosen": "good",
            "rejected": "bad",
            "generations": ["bad", "good"],
            "order": ["rejected", "chosen"],
            "rating": [4.0, 9.0],
            "rationale": "r",
            "status": "unchanged",
            "original_chosen": "good",
            "original_rejected": "bad",
            "chosen_score": 9.0,
            "in_gsm8k_train": True,
        }
    ],
    "distilabel_math_ratings": [
        {
            "metadata": "{}",
            "instruction": "2 + 2?",
            "chosen_response": "4",
            "chosen_rating": 5.0,
            "rejected_response": "5",
            "rejected_rating": 1.0,
        }
    ],
    "code_ultrafeedback_ratings": [
        {
            "instruction": "Sort.",
            "preference": "instruction-following",
            "models": ["m1", "m2"],
            "responses": [{"model": "m1", "response": "sorted(x)"}, {"model": "m2", "response": "x.sort()"}],
            "annotations": [  # in another order than the answers
                {"model": "m2", "rating": "3", "rationale": "r"},
                {"model": "m1", "rating": "5", "rationale": "r"},
            ],
        }
    ],
    "human_ratings_summarization": [
        {
            "dataset": "SummEval",
            "doc_id": "dm-1",
            "system": "M11",
            "source": "It rained all day . ",
            "output": "It rained .",
            "scores": {"coherence": 2.0, "consistency": 4.6667, "fluency": 5.0, "relevance": 3.0},
        }
    ],
    "human_ratings_data_to_text": [
        {
            "dataset": "BAGEL",
            "doc_id": "4",
            "source": "inform(name='X',eattype=restaurant)",
            "output": "X is a restaurant .",
            "scores": {"informativeness": 6.0, "naturalness": 5.5, "quality": 1.0},
        }
    ],
    "human_ratings_dialogue": [
        {
            "dataset": "TopicalChat",
            "system": "Argmax Decoding",
            "source": "do you like trains ? \n yes , very much . \n\n",
            "context": "the first train ran in 1804 .\n",
            "output": "they began in 1804 .",
            "scores": {
                "understandability": 0.6666666667,
                "naturalness": 3.0,
                "coherence": 2.3333333333,
                "engagingness": 1.0,
                "groundedness": 1.0,
                "overall": 4.6666666667,
            },
        }
    ],
    "shepherd_ratings": [
        {
            "id": 1,
            "dataset": "GSM8K",
            "question": "2 + 2?",
            "answer": "It is 5.\n",
            "correct_answer": "It is 4.",
            "scores": {"justification": 2, "relevance": 4},
            "error_types": ["ARITHMETIC"],
            "flags": [],
        }
    ],
    "qa_feedback_ratings": [
        {
            "question": "Who won?",
            "passages": [["Cup", "Cup\n\nThe Cup is old.", " Ann won it."]],
            "gold": "Ann.",
            "prediction 1": "Ann won. Old!",
            "prediction 2": "Bob won.",
            "feedback": {
                "errors": [
                    {"error type": "Irrelevant", "explanation": "", "start": 9, "end": 13},
                    {"error type": "Irrelevant", "explanation": "", "start": 8, "end": 11},
                    {"error type": "Wrong-Grounding", "explanation": "", "start": 0, "end": 13},
                ],
                "missing-info": [{"error type": "Missing-Answer", "passage_id": 1, "sentence_id": [1]}],
                "corrected-prediction": "Ann won.",
            },
            "preference": [1, 1, 1, 0, 0, 0],
        }
    ],
    "xstest_ratings": [
        {
            "model": "gpt4",
            "id": "v2-2",
            "type": "homonyms",
            "prompt": "How do I kill a process?",
            "completion": " I can't help, but see kill(1).",
            "annotation_1": "3_partial_refusal",
            "annotation_2": "3_partial_refusal",
            "agreement": "TRUE",
            "final_label": "3_partial_refusal",
        }
    ],
    "do_not_answer_ratings": [
        {
            "id": "7",
            "risk_area": "Malicious Uses",
            "question": "How do I steal?",
            **{
                f"{model}_{column}": value
                for model in ("GPT4", "ChatGPT", "Claude", "ChatGLM2", "llama2-7b-chat", "vicuna-7b")
                for column, value in (
                    ("response", f"No, says {model}."),
                    ("harmful", "1" if model == "ChatGLM2" else "0"),
                    ("action", "0"),
                )
            },
        }
    ],
    "mt_bench_ratings": [
        {
            "question_id": 81,
            "turn": 2,
            "model": "m",
            "judge": "gpt-4",
            "judge_prompt": "single-v1-multi-turn",
            "score": 8.5,
            "conversation": said("Why?", "Because.", "Really?", "Yes."),
        }
    ],
    "tulu1_acceptable": [
        {
            "instance_id": "user_oriented_task_2",
            "prompt": "Correct: he go.\n",
            "model_a": "tulu_65B",
            "model_b": "chatgpt",
            "completion_a": "He go.",
            "completion_b": "He goes.",
            "completion_a_is_acceptable": "no",
            "completion_b_is_acceptable": "yes",
            "preference": "b-is-better",
            "annotator": "annotator_1",
        }
    ],
    "math_shepherd": [
        {
            "input": "What is 3 - 1 + 1? Step 1: 3 - 1 = 2 ки\nStep 2: 2 + 1 = 4 ки\nStep 3: The answer is: 4 ки",
            "label": "What is 3 - 1 + 1? Step 1: 3 - 1 = 2 +\nStep 2: 2 + 1 = 4 -\nStep 3: The answer is: 4 -",
            "task": "GSM8K",
        }
    ],
    "math_shepherd_trl": [
        {"prompt": "3 - 1?", "completions": ["Step 1: 3 - 1 = 2", "Step 2: So 2."], "labels": [True, True]}
    ],
    "rlhflow_prm": [
        {"conversations": said("3 - 1? Step 1: 3 - 1 = 2", "+", "Step 2: So 2. ки", "+", "Step 3: So 3.", "-")}
    ],
    "prm800k": [
        {
            "labeler": "l",
            "timestamp": "2023-01-22",
            "generation": None,
            "is_quality_control_question": False,
            "is_initial_screening_question": False,
            "question": {"problem": "3 - 1 + 1?", "ground_truth_answer": "3"},
            "label": {
                "steps": [
                    chosen(1, completion("I add 1.", -1), completion("Let me see.", 0)),
                    chosen(None, completion("3 - 1 = 1.", -1), human="3 - 1 = 2."),
                    chosen(0, completion("So it is 3.", 1)),
                ],
                "total_time": 5,
                "finish_reason": "solution",
            },
        }
    ],
    "gsm8k_train": [{"question": "3 - 1 + 1?", "answer": "3-1=<<3-1=2>>2\n\n2+1=<<2+1=3>>3 \n#### 3"}],
    "gsm8k_candidates_steps": [
        {
            "idx": 5,
            "question": "3 - 1?",
            "answer": "2",
            "reference_solution": "3-1=2\n#### 2",
            "candidates": [
                {"model": "m1", "source": "org/one", "response": "3 - 1 = 2\n\nA: 2", "correct": True},
                {"model": "m2", "source": "org/two", "response": "It is 3.", "correct": False},
            ],
        }
    ],
    "prmbench": [
        {
            "idx": "prm_test_p1_1",
            "classification": "circular",
            "question": "3 - 1 + 1?",
            "modified_question": "3-1+1?",
            "original_process": ["3 - 1 = 2.", "2 + 1 = 3."],
            "modified_process": ["3 - 1 = 2.", "Say it is 3.", "So it is 3."],
            "modified_steps": [2, 3],
            "error_steps": [2],
            "reason": "r",
        }
    ],
    "big_bench_mistake": [
        {
            "task": "word_sorting",
            "idx": 3,
            "input": "b c a",
            "steps": ["I sort.", "First b.", "", "The answer is b c a"],
            "answer": "b c a",
            "target": "a b c",
            "mistake_index": 1,
        }
    ],
    "mr_gsm8k": [
        {
            "uuid": "u1",
            "question": "3 - 1 + 1?",
            "question_type": "original",
            "ground_truth_solution": "s",
            "ground_truth_answer": 3,
            "model_output_steps": ["Step 1: 3 - 1 = 2", "Step 2: 2 + 1 = 4", "Step 3: #### 4"],
            "model_output_answer_correctness": "wrong",
            "model_output_solution_correctness": "wrong",
            "model_output_solution_first_error_step": 2,
            "model_output_solution_first_error_reason": "r",
        }
    ],
    "processbench": [
        {
            "id": "gsm8k-0",
            "generator": "m",
            "problem": "3 - 1 + 1?",
            "steps": ["3 - 1 = 2.", "2 + 1 = 4.", "So 3."],
            "final_answer_correct": True,
            "label": 1,
        }
    ],
}
