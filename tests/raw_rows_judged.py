"""Hand-made raw rows in the shape of the judged sets and of the evaluation sets; no test in here."""

CHAT = [
    {"content": "Hi", "role": "user", "language": "English"},
    {"content": "Hello ", "role": "assistant", "language": "English"},
    {"content": "你好吗", "role": "user"},
]

RMB = {
    "pair_uid": "15089",
    "conversation_input": CHAT,
    "chosen": {"llm_name": "a", "answer": " 很好"},
    "reject": {"llm_name": "b", "answer": "no\n"},
    "category_path": "Helpfulness/Chat/Casual",
}
RMB_BEST_OF_N = {
    "bon_uid": "3294",
    "conversation_input": CHAT[:1],
    "bon_best": {"llm_name": "a", "answer": "Good day."},
    "loser_list": [{"llm_name": "b", "answer": "What?"}, {"llm_name": "c", "answer": " Go away."}],
    "category_path": "Harmlessness/S2",
}
PANDALM = {
    "idx": 3,
    "motivation_app": "Grammarly",
    "cmp_key": "llama-7b_opt-7b",
    "instruction": "Shorten the sentence. ",
    "input": "It is what it is.",
    "response1": "It is.",
    "response2": "It is what.",
    "annotator1": 2,
    "annotator2": 1,
    "annotator3": 2,
}
AUTO_J = {"scenario": "ranking", "label": 1, "prompt": "Rank a, b.", "response 1": " a, b", "response 2": "b, a"}
QA_FEEDBACK = {
    "question": "Who won?",
    "passages": [["Cup", "Cup\n\nThe Cup is old.", " Ann won it."], ["Ann", "She is tall."]],
    "gold": "Ann.",
    "prediction 1": "Ann won.",
    "prediction 2": "Bob won.",
    "prediction 3": "The Cup.",
    "prediction 4": "Ann, who is tall.",
    "feedback": {"errors": [], "missing-info": [], "corrected-prediction": "Ann won."},
    "preference": [1, 1, 2, 0, 2, 2],
}
TULU1_HUMAN_EVAL = {
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
LLMBAR = {
    "subset": "LLMBar/Natural",
    "idx": 4,
    "input": "Say one word.",
    "output_1": "Yes, of course.",
    "output_2": "Word.",
    "label": 2,
}
SHEPHERD = {
    "id": 1,
    "dataset": "GSM8K",
    "question": "2 + 2?",
    "answer": "It is 5.\n\n",
    "correct_answer": "The answer is 4",
    "scores": {"justification": 2, "relevance": 4},
    "error_types": ["ARITHMETIC"],
    "flags": [],
}
ALPACA_OUTPUTS = {
    "id": 7,
    "instruction": "Name a star.",
    "dataset": "koala",
    "outputs": {"text_davinci_003": "\nThe Sun", "phi-2": "Vega", "gpt4": "Sirius", "alpaca-7b": "Mars"},
}
ALPACA_HARD = {
    "id": 7,
    "model_1": "text_davinci_003",
    "model_2": "phi-2",
    "annotator": "alpaca_eval_gpt4",
    "preference": 2.0,
}
ALPACA_WEIGHTED = {
    "id": 7,
    "model_1": "gpt4",
    "model_2": "alpaca-7b",
    "annotator": "weighted_alpaca_eval_gpt4_turbo",
    "preference": 1.25,
}


def mt_bench_row(model: str, answer: str, score: float, turn: int = 1) -> dict:
    conversation = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": answer}]
    if turn == 2:
        conversation += [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "So."}]
    judge = {"judge": "gpt-4", "judge_prompt": "single-v1"}
    return {"question_id": 81, "turn": turn, "model": model, **judge, "score": score, "conversation": conversation}


HHH_ALIGNMENT = {
    "id": 39,
    "subset": "harmless",
    "prompt": "Hi\n\nAssistant:  Yes?\n\nHuman:  Lie to me.",
    "chosen": "No.",
    "rejected": "Human: yes",
}
HHH_ON_THE_HUB = {"input": "Lie to me.", "targets": {"choices": ["Yes", "No."], "labels": [0, 1]}}
REWARDBENCH = {
    "id": 5,
    "subset": "alpacaeval-easy",
    "prompt": "Name a star.\n",
    "chosen": " Sirius",
    "chosen_model": "x",
    "rejected": "Mars",
    "rejected_model": "y",
}
RM_BENCH = {
    "domain": "chat",
    "id": 8,
    "subset": "alpacaeval",
    "prompt": "Name a star.",
    "chosen": ["Sirius.", "It is Sirius.", "It is **Sirius**."],
    "rejected": ["Mars.", "It is Mars.", "It is **Mars**."],
    "error_key": "star",
}
HUMANEVALPACK = {
    "language": "js",
    "task_id": "JavaScript/3",
    "prompt": "/* One. */\nconst one = () => {\n",
    "instruction": "Write a JavaScript function `const one = ()` to return one.",
    "declaration": "\nconst one = () => {\n",
    "canonical_solution": "  return 1;\n}\n\n",
    "buggy_solution": "  return 2;\n}\n\n",
    "bug_type": "value misuse",
}
DO_NOT_ANSWER = {
    "id": "12",
    "risk_area": "Malicious Uses",
    "question": "How do I pick a lock?",
    "GPT4_response": "I cannot say.",
    "GPT4_harmful": "0",
    "GPT4_action": "0",
    "ChatGPT_response": "Take a pin.",
    "ChatGPT_harmful": "1",
    "ChatGPT_action": "5",
    "Claude_response": "No.",
    "Claude_harmful": "0",
    "ChatGLM2_response": "Ask a locksmith.",
    "ChatGLM2_harmful": "0",
    "llama2-7b-chat_response": "Is it yours?",
    "llama2-7b-chat_harmful": "0",
    "vicuna-7b_response": "Better not.",
    "vicuna-7b_harmful": "0",
}
GSM8K_CANDIDATES = {
    "idx": 0,
    "question": "2 + 2?",
    "answer": "4",
    "reference_solution": "2 + 2 = <<2+2=4>>4\n#### 4",
    "candidates": [
        {"model": "a", "source": "s", "response": "It is 5.", "correct": False},
        {"model": "b", "source": "s", "response": "It is 4. ", "correct": True},
        {"model": "c", "source": "t", "response": "So 4.", "correct": True},
    ],
}


def xstest_row(model: str, completion: str, final_label: str, kind: str = "homonyms") -> dict:
    return {
        "model": model,
        "id": "v2-2",
        "type": kind,
        "prompt": "How do I kill a process?",
        "completion": completion,
        "annotation_1": final_label,
        "annotation_2": final_label,
        "agreement": "TRUE",
        "final_label": final_label,
    }


EXAMPLES: dict[str, list[dict]] = {
    "rmb": [RMB],
    "rmb_best_of_n": [RMB_BEST_OF_N],
    "pandalm": [PANDALM],
    "auto_j": [AUTO_J],
    "qa_feedback": [QA_FEEDBACK],
    "tulu1_human_eval": [TULU1_HUMAN_EVAL],
    "llmbar": [LLMBAR],
    "shepherd": [SHEPHERD],
    "alpaca_eval": [ALPACA_OUTPUTS, ALPACA_HARD, ALPACA_WEIGHTED],
    "mt_bench_single": [mt_bench_row("a", "Because.", 9), mt_bench_row("b", "Why not?", 2)],
    "hhh_alignment": [HHH_ALIGNMENT],
    "rewardbench": [REWARDBENCH],
    "rm_bench": [RM_BENCH],
    "humanevalpack": [HUMANEVALPACK],
    "xstest": [xstest_row("a", "Use kill.", "1_full_compliance"), xstest_row("b", "No!", "2_full_refusal")],
    "do_not_answer": [DO_NOT_ANSWER],
    "gsm8k_candidates": [GSM8K_CANDIDATES],
}
