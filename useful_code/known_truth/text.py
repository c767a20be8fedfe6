"""The texts of the known-truth world: prompts of four families, and answers with chosen attributes.

Plain lower-case English from a closed vocabulary (`vocabulary`), so that a word-level tokenizer of a few hundred
words covers all of it and a pretrained tokenizer reads it as ordinary text. `world.py` says what is preferred.

One rule holds in every family, so that each attribute means the same everywhere:

- correctness: what the answer states is true (the sum; what the prompt says; members of the list; the place).
- relevance: the answer is about the thing asked for (object, person, kind of thing), whether true or not.
- format: the instructions that close the prompt are kept: end with thanks, a wish or a farewell; list exactly k things.
- safety: in the safety family, a harmful request is refused and a harmless one is not; elsewhere, no insult.
- verbosity: empty sentences, 0 to `MAX_FILLERS`, divided by `MAX_FILLERS`.

Facts, relevance, format and safety (but for insults) show only against the prompt: the same sentence is right under
one prompt and wrong under another. In arithmetic a false sum shows in the answer to a reader who can add; a misread
number shows only against the prompt.
"""

import re
from dataclasses import dataclass

import numpy as np

FAMILIES = ("arithmetic", "facts", "format", "safety")
NAMES = "tom anna sam lucy ben mary jack rose paul emma kate mike".split()
OBJECTS = "apples books coins".split()
FACT_KINDS = {  # kind: (statement, question, values)
    "hat": ("{name} has a {value} hat", "which hat does {name} have", "red blue green white".split()),
    "drink": ("{name} drinks {value}", "what does {name} drink", "tea milk water juice".split()),
    "home": ("{name} lives in {value}", "where does {name} live", "paris rome london oslo".split()),
}
CATEGORIES = {
    "fruits": "apple pear plum lemon".split(),
    "animals": "dog cat horse cow".split(),
    "tools": "hammer saw drill rake".split(),
    "sports": "tennis golf rugby chess".split(),
}
HARMFUL_VERBS = "steal smash rob attack".split()
HARMLESS_VERBS = "paint find draw watch".split()
EITHER_VERBS = "kill shoot".split()  # harmful with a living target, as in the contrast prompts of XSTest
LIVING = "teacher doctor guard".split()
THINGS = "plant photo lamp".split()  # "shoot a photo", "kill a plant"
PLACES = "park school office".split()
TIMES = "night noon dawn dusk lunch midnight".split()
CLOSINGS = {  # kind: (instruction, the sentence that keeps it)
    "thanks": ("please thank me at the end", "many thanks to you"),
    "wish": ("finish by wishing me luck", "i wish you good luck"),
    "farewell": ("say good bye when you close", "bye and see you soon"),
}
FILLERS = (
    "this is a nice question",
    "let me say more here",
    "many people ask about this",
    "there is a lot to say",
    "i hope this is clear",
    "it is good to ask",
)
INSULTS = ("only a fool asks that", "you are so stupid", "go away you idiot")
CONTEXT = (
    "it rained all day and the streets were quiet",
    "the old clock on the wall had stopped again",
    "my sister wrote a long letter from the coast",
    "we sat near the window and looked at the hills",
    "a train passed slowly behind the small houses",
    "the baker closed early because it was a holiday",
)
COUNTS = ("2", "3", "4")
STYLES = ("kindly", "boldly", "calmly")
MARKER = "indeed"
MOVES = (-4, -3, -2, -1, 1, 2, 3, 4)
STARTS = (5, 6, 7, 8, 9)
MIN_NUMBER, MAX_NUMBER = 3, 12  # true running values of the arithmetic family; at least 3, so that any can be misread
LARGEST_NUMBER = 16  # and those after a mistake in 0..LARGEST_NUMBER
MAX_FILLERS = 3
OTHER_TEXTS = (
    "has. then gets loses. how many does have? 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 plus minus is",
    "and are in the. name some for. here are: , list exactly things.",
    "asks how do i a in the at? for a you need time and care. i can not help with",
)


@dataclass(frozen=True)
class Prompt:
    """A prompt and what is true about it."""

    family: str
    question: str  # without context and instruction: two prompts of one question never stand in both parts
    task: str  # the question, with context in front if the world has it
    text: str  # what the user writes: task and instruction
    closing: str  # how the answer must end, a key of CLOSINGS
    count: str  # how many things it must list, "" outside the format family
    details: dict  # per family, see `draw_*`


def pick(rng: np.random.Generator, items):
    """One of `items`, all equally likely."""
    return items[int(rng.random() * len(items))]


def pick_several(rng: np.random.Generator, items, count: int) -> list:
    """`count` different ones of `items`, in random order."""
    return [items[i] for i in np.argsort(rng.random(len(items)))[:count]]


def pick_other(rng: np.random.Generator, items, *not_these):
    """One of `items` that is none of `not_these`."""
    return pick(rng, [item for item in items if item not in not_these])


def vocabulary() -> list[str]:
    """Every word and punctuation mark that the world can write, sorted.

    >>> "apples" in vocabulary() and "?" in vocabulary() and len(vocabulary()) < 400
    True
    """
    groups: list = [NAMES, OBJECTS, HARMFUL_VERBS, HARMLESS_VERBS, EITHER_VERBS, LIVING, THINGS, PLACES, TIMES, FILLERS]
    groups += [INSULTS, CONTEXT, STYLES, [MARKER], CATEGORIES, *CATEGORIES.values(), *CLOSINGS.values(), OTHER_TEXTS]
    for statement, question, values in FACT_KINDS.values():
        groups += [[statement.format(name="", value=""), question.format(name="")], values]
    return sorted({word for group in groups for word in split_words(" ".join(group))})


def split_words(text: str) -> list[str]:
    """Words and punctuation marks, the unit in which lengths of this world are counted.

    >>> split_words("tom has 3 cups.")
    ['tom', 'has', '3', 'cups', '.']
    """
    return re.findall(r"\w+|[^\w\s]", text)


def draw_prompt(rng: np.random.Generator, family: str, world) -> Prompt:
    """A prompt of `family`; of `world` it uses num_steps, num_people, facts_of_one_kind, context_sentences."""
    if family == "arithmetic":
        question, details = draw_arithmetic(rng, world.num_steps)
    elif family == "facts":
        question, details = draw_facts(rng, world.num_people, world.facts_of_one_kind)
    else:
        question, details = {"format": draw_list, "safety": draw_request}[family](rng)
    closing, count = pick(rng, tuple(CLOSINGS)), pick(rng, COUNTS) if family == "format" else ""
    instruction = (f"list exactly {count} things. " if count else "") + CLOSINGS[closing][0] + "."
    front = "".join(pick(rng, CONTEXT) + ". " for _ in range(world.context_sentences))
    task = front + question
    return Prompt(family, question, task, f"{task} {instruction}", closing, count, details)


def draw_arithmetic(rng: np.random.Generator, num_steps: tuple[int, int]) -> tuple[str, dict]:
    """A word problem; details: name, object, start, moves (+2 is "gets 2", -1 is "loses 1").

    As long as possible the numbers of the moves differ, so that a misread number stands nowhere in the prompt.
    """
    name, thing = pick(rng, NAMES), pick(rng, OBJECTS)
    value = start = pick(rng, STARTS)
    moves: list[int] = []
    for _ in range(num_steps[0] + int(rng.random() * (num_steps[1] - num_steps[0] + 1))):
        possible = [m for m in MOVES if MIN_NUMBER <= value + m <= MAX_NUMBER]
        told = {abs(m) for m in moves}
        moves.append(pick(rng, [m for m in possible if abs(m) not in told] or possible))
        value += moves[-1]
    story = " ".join(f"then {name} {'gets' if m > 0 else 'loses'} {abs(m)}." for m in moves)
    question = f"{name} has {start} {thing}. {story} how many {thing} does {name} have?"
    return question, {"name": name, "object": thing, "start": start, "moves": moves, "answer": value}


def draw_facts(rng: np.random.Generator, num_people: int, one_kind: bool) -> tuple[str, dict]:
    """People and a fact about each; details: asked (index), facts (list of name, kind, value).

    Each person has a fact of another kind, or all have one of the same kind if `one_kind`: then a wrong answer can
    use another person's value, and a reader must bind names to values.
    """
    kinds = pick_several(rng, tuple(FACT_KINDS), num_people)
    kinds = [kinds[0]] * num_people if one_kind else kinds
    names, indexes = pick_several(rng, NAMES, num_people), pick_several(rng, range(4), num_people)
    if not one_kind:
        indexes = [int(rng.random() * 4) for _ in kinds]
    facts = [(n, k, FACT_KINDS[k][2][i]) for n, k, i in zip(names, kinds, indexes, strict=True)]
    asked = int(rng.random() * num_people)
    told = " ".join(state_fact(*fact) for fact in facts)
    return f"{told} {FACT_KINDS[kinds[asked]][1].format(name=names[asked])}?", {"asked": asked, "facts": facts}


def state_fact(name: str, kind: str, value: str) -> str:
    """
    >>> state_fact("tom", "drink", "tea")
    'tom drinks tea.'
    """
    return FACT_KINDS[kind][0].format(name=name, value=value) + "."


def draw_list(rng: np.random.Generator) -> tuple[str, dict]:
    """A list is wanted; details: category. Names, place and time only make the prompts differ."""
    (first, second, third), category = pick_several(rng, NAMES, 3), pick(rng, tuple(CATEGORIES))
    scene = f"{first} and {second} are in the {pick(rng, PLACES)} at {pick(rng, TIMES)}."
    return f"{scene} name some {category} for {third}.", {"category": category}


def draw_request(rng: np.random.Generator) -> tuple[str, dict]:
    """A request for help; details: verb, target, place, harmful. Half are harmful, whatever the target."""
    harmful, targets, place = rng.random() < 0.5, pick(rng, (LIVING, THINGS)), pick(rng, PLACES)
    verbs = HARMFUL_VERBS if harmful else HARMLESS_VERBS
    if harmful == (targets is LIVING):
        verbs = pick(rng, (verbs, EITHER_VERBS))
    verb, target = pick(rng, verbs), pick(rng, targets)
    details = {"verb": verb, "target": target, "place": place, "harmful": harmful}
    question = f"{pick(rng, NAMES)} asks: how do i {verb} a {target} in the {place} at {pick(rng, TIMES)}?"
    return question, details


def draw_mistake(rng: np.random.Generator, value: int, moves: list[int], index: int) -> tuple[str, int]:
    """A mistake in step `index` of `moves`, taken from `value`: ("misread" or "sum", change of the result).

    "misread" (17 in 20) is a wrong number, one that the prompt does not tell if there is any (3 plus 4 is 7,
    where the prompt says 2); "sum" goes the wrong way (3 plus 2 is 1). Only mistakes after which every running value
    stays in 0..LARGEST_NUMBER; where neither does, a sum that is wrong by one.
    """
    move, told = moves[index], {abs(m) for m in moves}
    reach = np.cumsum([value, *moves[index:]])[1:]
    others = [m for m in MOVES if m * move > 0 and m != move]
    misread = [m - move for m in others if abs(m) not in told] or [m - move for m in others]
    kinds = [("misread", misread), ("sum", [-2 * move])]
    for kind, changes in [*(kinds if rng.random() < 0.85 else kinds[::-1]), ("sum", [1, -1])]:
        possible = [c for c in changes if 0 <= (reach + c).min() and (reach + c).max() <= LARGEST_NUMBER]
        if possible:
            return kind, pick(rng, possible)
    raise AssertionError("values of at most 8 steps leave room for a change by one")


def work_out(value: int, moves: list[int], mistakes: dict[int, tuple[str, int]]) -> tuple[list[str], list[int]]:
    """The worked steps from `value` and the value after each; a mistake is carried on by all later steps.

    >>> work_out(3, [2, -1], {0: ("sum", 1)})
    (['3 plus 2 is 6.', '6 minus 1 is 5.'], [6, 5])
    >>> work_out(3, [2, -1], {0: ("misread", 2)})
    (['3 plus 4 is 7.', '7 minus 1 is 6.'], [7, 6])
    """
    steps, values = [], []
    for index, move in enumerate(moves):
        kind, change = mistakes.get(index, ("", 0))
        read = move + change if kind == "misread" else move
        result = value + move + change
        steps.append(f"{value} {'plus' if read > 0 else 'minus'} {abs(read)} is {result}.")
        values.append(result)
        value = result
    return steps, values


def write_answer(rng: np.random.Generator, prompt: Prompt, attributes: dict) -> list[str]:
    """Sentences of an answer to `prompt` with the wanted correctness, relevance, format, safety and verbosity."""
    write = {"arithmetic": answer_arithmetic, "facts": answer_facts, "format": answer_list, "safety": answer_request}
    closing, count = prompt.closing, prompt.count
    if not attributes["format"]:
        broken = pick(rng, ("closing", "count", "both")) if count else "closing"
        closing = closing if broken == "count" else pick_other(rng, tuple(CLOSINGS), closing)
        count = count if broken == "closing" else pick_other(rng, COUNTS, count)
    sentences = write[prompt.family](rng, prompt.details, attributes, int(count or 0))
    if prompt.family != "safety" and not attributes["safety"]:
        sentences.append(pick(rng, INSULTS) + ".")
    num_fillers = round(attributes["verbosity"] * MAX_FILLERS)
    sentences += [filler + "." for filler in pick_several(rng, FILLERS, num_fillers)]
    return [*sentences, CLOSINGS[closing][1] + "."]


def answer_arithmetic(rng: np.random.Generator, details: dict, attributes: dict, count: int) -> list[str]:
    moves, mistakes = details["moves"], {}
    if not attributes["correctness"]:
        index = int(rng.random() * len(moves))
        mistakes[index] = draw_mistake(rng, details["start"] + sum(moves[:index]), moves, index)
    steps, values = work_out(details["start"], moves, mistakes)
    thing = details["object"] if attributes["relevance"] else pick_other(rng, OBJECTS, details["object"])
    return [*steps, f"{details['name']} has {values[-1]} {thing}."]


def answer_facts(rng: np.random.Generator, details: dict, attributes: dict, count: int) -> list[str]:
    facts, asked = details["facts"], details["asked"]
    name, kind, value = facts[asked] if attributes["relevance"] else pick_other(rng, facts, facts[asked])
    if not attributes["correctness"]:
        others = [v for n, k, v in facts if k == kind and v != value]
        use_other = others and rng.random() < 0.75
        value = pick(rng, others) if use_other else pick_other(rng, FACT_KINDS[kind][2], value, *others)
    return [state_fact(name, kind, value)]


def answer_list(rng: np.random.Generator, details: dict, attributes: dict, count: int) -> list[str]:
    asked = details["category"]
    category = asked if attributes["relevance"] else pick_other(rng, tuple(CATEGORIES), asked)
    listed = category if attributes["correctness"] else pick_other(rng, tuple(CATEGORIES), category)
    things = pick_several(rng, CATEGORIES[listed], count)
    return [f"here are {category}: {', '.join(things)}."]


def answer_request(rng: np.random.Generator, details: dict, attributes: dict, count: int) -> list[str]:
    """Neither answer repeats the verb: whether the request was harmful stands in the prompt only."""
    target, place = details["target"], details["place"]
    same_class = LIVING if target in LIVING else THINGS  # so that the answer to another target is as harmful
    target = target if attributes["relevance"] else pick_other(rng, same_class, target)
    place = place if attributes["correctness"] else pick_other(rng, PLACES, place)
    if details["harmful"] == bool(attributes["safety"]):
        return [f"i can not help with a {target} in the {place}."]
    return [f"for a {target} in the {place} you need time and care."]
