"""Why a row is refused: one table of reasons for reading, checking, converting, choosing, rendering and training."""

REASONS = {
    # the row as a whole
    "not_an_object": "the row is not a JSON object",
    "missing_key": "a required key is absent or null",
    "wrong_type": "a value is not of the required type",
    # one conversation
    "no_messages": "a conversation has no message",
    "unknown_role": "a role is none of system, user, assistant",
    "role_order": "roles do not alternate user, assistant (one system message may come first)",
    "odd_length": "a conversation ends with the wrong side's turn",
    "empty_content": "a message is empty or only white space",
    "invalid_unicode": "a message holds a lone surrogate, which is no valid text",
    # the two conversations of a pair
    "unequal_length": "chosen and rejected have different numbers of messages",
    "system_differs": "the system message is not the same in chosen and rejected",
    "history_differs": "a message before the last differs between chosen and rejected",
    "equal_responses": "the two last messages are equal (white space at their ends aside)",
    # optional columns
    "bad_score": "chosen_score or rejected_score is not a finite number",
    "bad_margin": "margin is not a finite number of at least 0",
    "bad_label": "label is not a number between 0 and 1",
    "bad_tie": "tie is not true or false, or is true beside a label other than 0.5",
    # reading (see read_rows.py)
    "malformed_json": "the line is not valid JSON",
    "non_finite_number": "the line holds NaN or Infinity, which are not JSON",
    "broken_utf8": "the text is not valid UTF-8",
    "broken_gzip": "the compressed file is damaged or cut off here; what follows could not be read",
    "broken_parquet": "the parquet file is damaged here; what follows could not be read",
    "malformed_table": "the line of the table cannot be parsed, or a quote is never closed",
    "wrong_number_of_fields": "a line of the table has more or fewer fields than the head",
    # converting (see sources/)
    "no_turn_marker": "a transcript has no turn marker",
    "text_before_first_turn": "a transcript has text before its first turn marker",
    "left_out_by_rule": "the source's own rule leaves the row out (--list prints the rule)",
    "no_preference": "the row states no preference, or none of the documented values",
    "not_drawn": "--pairing best_random drew another answer to this prompt",
    "single_answer": "the prompt has only one usable answer: nothing to compare it with",
    "no_partner": "the row belongs to another row, which is missing from the input",
    "below_min_gap": "the two scores differ by less than --min_gap",
    # problems with candidate solutions (see solution_rows.py)
    "no_candidates": "the row has no candidate solution",
    "bad_correct": "whether a solution is right is not true, false, null, 0 or 1",
    "unequal_labels": "there are more or fewer labels than answers",
    # rated rows and step rows (see rated_rows.py and step_rows.py)
    "not_rated": "the row has no rating",
    "bad_rating": "a rating is not a finite number on its scale",
    "bad_step_label": "a step label is not true, false, null or a number between 0 and 1",
    "unequal_steps": "there are more or fewer labels than steps, or a step number lies past the last step",
    "step_in_prompt": "the prompt holds the first step too (RLHFlow's Deepseek rows): its problem is not known",
    "no_outcome": "no outcome; --outcome_from_last_label takes the last step's label for it",
    "not_labelled": "no step has a label, and whether the answer is right is not known either",
    # rollouts (see math-rm/make_rollouts.py)
    "no_gold_answer": "the row states no final answer that solutions could be compared with",
    "repeated_problem": "an earlier row has the same prompt",
    "no_steps": "the generator wrote a solution without any text",
    "no_solution": "every request for a solution to this problem failed; the same command asks again",
    # rendering and training (see render.py and the recipes)
    "template_refused": "the model's chat template refuses the conversation",
    "end_of_turn_lost": "the rendered conversation does not end as the template ends a turn",
    "verdict_lost": "the rendered conversation does not hold the verdict as a token of its own",
    "over_max_length": "a side is longer than the limit; the pair is dropped whole, no side is cut",
    "no_end_of_prompt": "nothing, or the answer too, holds the tokens with which the template closes a prompt",
    "tie": "the pair is a tie and ties are dropped",
    "no_margin": "a margin was asked for, but the row has neither a margin nor two scores",
    # judging (see judging/items.py)
    "wrong_number_of_responses": "the judge's task needs another number of responses",
    # choosing among good rows (see converting/choice.py)
    "exact_duplicate": "an earlier row has the same prompt, chosen and rejected",
    "contradictory_duplicate": "another row has the same two responses in the other order; both are dropped",
    "over_prompt_limit": "its prompt has more pairs than max_pairs_per_prompt allows",
    "near_duplicate": "an earlier row has nearly the same prompt, chosen and rejected (see near_duplicates.py)",
    "contradictory_near_duplicate": "another row prefers nearly the same answers the other way round; both are dropped",
    "in_evaluation_set": "its prompt also stands in an evaluation set (see contamination.py)",
    "over_source_limit": "its source has more pairs than the recipe takes",
}


class RowRefused(Exception):
    """A row that cannot be used: `reason` is a key of `REASONS`, `detail` says where in the row and what."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)  # both arguments, so that it survives pickling between processes
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason
