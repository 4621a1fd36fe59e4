"""Tasks known by name: the 15 Long-Sequence, the SuperNI and the 8 TRACE tasks of the continual-learning papers (layer L1).

Instructions of the Long-Sequence tasks: N-LoRA, Table 6. Labels: the spelling of the public ``CL_Benchmark`` files.
Names are matched without regard to case, hyphens, underscores or spaces, and with the layouts' own spellings:
``SST-2``, ``BoolQA``, ``NLI/MNLI``, ``task1572_samsum_summary``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["FAMILY_INSTRUCTIONS", "KNOWN", "TRACE", "HubSource", "KnownTask", "canonical", "fold", "metric_of"]


@dataclass(frozen=True, slots=True)
class HubSource:
    """The source of a known task on the Hub, and how its rows become benchmark sentences and labels.

    Attributes:
        repo: Dataset id.
        config: Configuration or ``None``.
        test: Split that serves as the test, as in the benchmark: the public one that has labels.
        form: Format string of the sentence over the row's columns.
        label: Column of the label.
        values: Benchmark label of each class index.
        exported: Read the Hub's Parquet export, because the repository itself still needs a loading script.
    """

    repo: str
    config: str | None
    test: str
    form: str
    label: str
    values: tuple[str, ...]
    exported: bool = False


@dataclass(frozen=True, slots=True)
class KnownTask:
    """What is known about a task before any of its data are read.

    Attributes:
        name: Canonical short name.
        family: ``CL_Benchmark`` task type, ``SuperNI`` or ``TRACE``.
        summary: What is asked, in a few words.
        metric: One of ``clora_cli.data.METRICS``.
        labels: The closed set of answers; ``()`` when open-ended.
        instruction: First line of the prompt; empty where the data carry their own.
        aliases: Other spellings, folded.
        hub: Source on the Hub, if a reliable one exists.
        category: Its kind of task as PFD, tables 6 and 8, have it; empty where the family says it.
    """

    name: str
    family: str
    summary: str
    metric: str
    labels: tuple[str, ...] = ()
    instruction: str = ""
    aliases: tuple[str, ...] = ()
    hub: HubSource | None = None
    category: str = ""


TRACE = "TRACE"
_CHOOSE = "Choose one from the option."
FAMILY_INSTRUCTIONS = {
    "NLI": f'What is the logical relationship between the "sentence 1" and the "sentence 2"? {_CHOOSE}',
    "QQP": f'Whether the "first sentence" and the "second sentence" have the same meaning? {_CHOOSE}',
    "SC": f"What is the sentiment of the following paragraph? {_CHOOSE}",
    "TC": f"What is the topic of the following paragraph? {_CHOOSE}",
    "BoolQA": f"According to the following passage, is the question true or false? {_CHOOSE}",
    "MultiRC": f"According to the following passage and question, is the candidate answer true or false? {_CHOOSE}",
    "WiC": "Given a word and two sentences, whether the word is used with the same sense in both sentence? " + _CHOOSE,
    "COPA": "",
}

_STARS = ("very negative", "negative", "neutral", "positive", "very positive")
_GOOD = ("Good", "Bad")
_TRUTH = ("True", "False")
_NLI3 = ("neutral", "entailment", "contradiction")
_YAHOO = (
    "Society & Culture", "Science & Mathematics", "Health", "Education & Reference", "Computers & Internet", "Sports",
    "Business & Finance", "Entertainment & Music", "Family & Relationships", "Politics & Government",
)  # fmt: skip
_DBPEDIA = (
    "Company", "Educational Institution", "Artist", "Athlete", "Office Holder", "Mean of Transportation", "Building",
    "Natural Place", "Village", "Animal", "Plant", "Album", "Film", "Written Work",
)  # fmt: skip
_GLUE, _SUPER = "nyu-mll/glue", "aps/super_glue"
_PAIR = "sentence 1: {premise}\nsentence 2: {hypothesis}"


def _long(
    name: str,
    family: str,
    summary: str,
    labels: tuple[str, ...],
    hub: HubSource | None,
    *aliases: str,
) -> KnownTask:
    return KnownTask(name, family, summary, "exact-match", labels, FAMILY_INSTRUCTIONS[family], aliases, hub)


_LONG_SEQUENCE = (
    _long("yelp", "SC", "stars of a business review, five grades", _STARS,
          HubSource("Yelp/yelp_review_full", None, "test", "Text: {text}", "label", _STARS), "yelpreviewfull"),
    _long("amazon", "SC", "stars of a product review, five grades", _STARS, None, "amazonreviewfull"),
    _long("dbpedia", "TC", "kind of thing that an encyclopedia entry is about", _DBPEDIA,
          HubSource("fancyzhx/dbpedia_14", None, "test", "Title: {title}\nText: {content}", "label", _DBPEDIA),
          "dbpedia14"),
    _long("yahoo", "TC", "topic of a question and its answer", _YAHOO,
          HubSource("community-datasets/yahoo_answers_topics", None, "test",
                    "Title: {question_title}\nQuestion: {question_content}\nAnswer: {best_answer}", "topic", _YAHOO),
          "yahooanswers", "yahooanswerstopics"),
    _long("agnews", "TC", "section of a news item", ("World", "Sports", "Business", "Science or Technology"),
          HubSource("fancyzhx/ag_news", None, "test", "Text: {text}", "label",
                    ("World", "Sports", "Business", "Science or Technology")), "ag"),
    _long("mnli", "NLI", "entailment between two sentences of many genres", _NLI3,
          HubSource(_GLUE, "mnli", "validation_matched", _PAIR, "label", ("entailment", "neutral", "contradiction")),
          "multinli"),
    _long("cb", "NLI", "whether a speaker is committed to an embedded clause",
          ("entailment", "contradiction", "neutral"),
          HubSource(_SUPER, "cb", "validation", _PAIR, "label", ("entailment", "contradiction", "neutral"), True),
          "commitmentbank"),
    _long("wic", "WiC", "whether a word has one sense in two sentences", _TRUTH,
          HubSource(_SUPER, "wic", "validation", "word: {word}\n{sentence1}\n{sentence2}", "label",
                    ("False", "True"), True)),
    _long("copa", "COPA", "the likelier cause or effect of an event", ("A", "B"),
          HubSource(_SUPER, "copa", "validation", 'Which sentence is the {question} of "{premise}"? Choose one between '
                    "A and B.\nA: {choice1}\nB: {choice2}", "label", ("A", "B"), True)),
    _long("qqp", "QQP", "whether two questions ask the same", ("False", "True"),
          HubSource(_GLUE, "qqp", "validation", "first sentence: {question1}\nsecond sentence: {question2}", "label",
                    ("False", "True"))),
    _long("boolq", "BoolQA", "yes or no to a question on a passage", _TRUTH,
          HubSource("google/boolq", None, "validation", "question: {question}\npassage: {passage}", "answer",
                    ("False", "True")), "boolqa"),
    _long("rte", "NLI", "whether one sentence entails another", ("contradiction", "entailment"),
          HubSource(_GLUE, "rte", "validation", "sentence 1: {sentence1}\nsentence 2: {sentence2}", "label",
                    ("entailment", "contradiction"))),
    _long("imdb", "SC", "sentiment of a film review", _GOOD,
          HubSource("stanfordnlp/imdb", None, "test", "{text}", "label", ("Bad", "Good"))),
    _long("sst2", "SC", "sentiment of a phrase from a film review", _GOOD,
          HubSource(_GLUE, "sst2", "validation", "Text: {sentence}", "label", ("Bad", "Good"))),
    _long("multirc", "MultiRC", "whether a candidate answers a question on a paragraph", ("False", "True"),
          HubSource(_SUPER, "multirc", "validation", "paragraph: {paragraph}\nquestion: {question}\n"
                    "candidate answer: {answer}", "label", ("False", "True"), True)),
)  # fmt: skip

# Full names in Natural-Instructions, with a summary: 15 that the papers train on, then 15 kept for zero-shot scores.
_SEEN = {
    "task1572_samsum_summary": "summary of a chat",
    "task363_sst2_polarity_classification": "sentiment of a film review sentence",
    "task1290_xsum_summarization": "one-sentence summary of a news article",
    "task181_outcome_extraction": "outcomes named in a medical study",
    "task002_quoref_answer_generation": "question that needs coreference",
    "task1510_evalution_relation_extraction": "relation between two words",
    "task639_multi_woz_user_utterance_generation": "the request that a reply answers",
    "task1729_personachat_generate_next": "next turn of a dialogue, in character",
    "task073_commonsenseqa_answer_generation": "multiple choice on common sense",
    "task1590_diplomacy_text_generation": "next message between two players",
    "task748_glucose_reverse_cause_event_detection": "what a story's sentence causes",
    "task511_reddit_tifu_long_text_summarization": "humorous summary of a post",
    "task591_sciq_answer_generation": "answer to a science question",
    "task1687_sentiment140_classification": "sentiment of a tweet",
    "task875_emotion_classification": "emotion of a sentence, six kinds",
}
_UNSEEN = {
    "task360_spolin_yesand_response_generation": "improvised reply",
    "task574_air_dialogue_sentence_generation": "missing turn of a booking dialogue",
    "task1714_convai3_sentence_generation": "answer to a clarifying question",
    "task180_intervention_extraction": "interventions named in a medical study",
    "task678_ollie_actual_relationship_answer_generation": "relation stated in a sentence",
    "task1410_dart_relationship_extraction": "relation between two arguments",
    "task339_record_answer_generation": "entity that fills a gap",
    "task670_ambigqa_question_generation": "unambiguous form of a question",
    "task1327_qa_zre_answer_generation_from_question": "answer from a context",
    "task522_news_editorial_summary": "quotations that carry an editorial",
    "task1356_xlsum_title_generation": "title of an article",
    "task1499_dstc3_summarization": "summary of a booking dialogue",
    "task421_persent_sentence_sentiment_classification": "sentiment towards a person",
    "task833_poem_sentiment_classification": "sentiment of a line of verse",
    "task929_products_reviews_classification": "sentiment of a product review",
}
_CATEGORIES = {
    "Dialog": "task639 task1590 task1729 task360 task574 task1714",
    "IE": "task181 task748 task1510 task180 task678 task1410",
    "QA": "task002 task073 task591 task339 task670 task1327",
    "Sum": "task511 task1290 task1572 task522 task1356 task1499",
    "SA": "task363 task875 task1687 task421 task833 task929",
}
_CATEGORY_OF = {name: category for category, names in _CATEGORIES.items() for name in names.split()}
_NI_LABELS = {
    "task363": ("NEG", "POS"),
    "task1687": ("negative", "positive"),
    "task875": ("anger", "fear", "joy", "love", "sadness", "surprise"),
}
# TRACE (arXiv:2310.06762): each row is a whole prompt and its answer, scored as the published evaluation scores it. Of what that reports
# for a task, the metric is the one of PS-LoRA, appendix A.1.
_TRACE = (
    KnownTask("c-stance", TRACE, "stance of a Chinese post towards a target", "exact-match", ("A", "B", "C")),
    KnownTask("fomc", TRACE, "hawkish or dovish stance of a central bank's sentence", "exact-match", ("A", "B", "C")),
    KnownTask("meetingbank", TRACE, "summary of a city council's meeting", "rouge-l"),
    KnownTask("py150", TRACE, "next line of Python code", "code-similarity"),
    KnownTask("scienceqa", TRACE, "multiple choice on science, with reasons", "first-character"),
    KnownTask("numglue-cm", TRACE, "number that common sense and arithmetic give", "exact-match"),
    KnownTask("numglue-ds", TRACE, "number that domain knowledge and arithmetic give", "exact-match"),
    KnownTask("20minuten", TRACE, "simplification of a German news text", "sari"),
)


def metric_of(full_name: str) -> str:
    """Return a Natural-Instructions task's metric, which its name decides in the papers' scoring."""
    return "exact-match" if "classification" in full_name else "rouge-l"


def _natural(full_name: str, family: str, summary: str) -> KnownTask:
    name = full_name.partition("_")[0]
    aliases = (fold(full_name),)
    labels, category = _NI_LABELS.get(name, ()), _CATEGORY_OF[name]
    return KnownTask(name, family, summary, metric_of(full_name), labels, "", aliases, category=category)


def fold(name: str) -> str:
    """Return a name without case, hyphens, underscores, spaces or a task number's leading zeros.

    A user's ``task-2.jsonl`` is not Natural-Instructions' task002: what stands between ``task`` and a number stays.
    """
    folded = re.sub(r"(?<!^task)[-_ ]+|[-_ ]+(?!\d)", "", name.casefold())
    return re.sub(r"^task0+(?=\d)", "task", folded)


KNOWN: dict[str, KnownTask] = {
    task.name: task
    for task in (
        *_LONG_SEQUENCE,
        *(_natural(name, "SuperNI", summary) for name, summary in _SEEN.items()),
        *(_natural(name, "SuperNI unseen", summary) for name, summary in _UNSEEN.items()),
        *_TRACE,
    )
}
_BY_SPELLING = {spelling: task for task in KNOWN.values() for spelling in (fold(task.name), *task.aliases)}


def canonical(name: str) -> KnownTask | None:
    """Return the known task that a spelling names, or ``None``.

    ``Type/Dataset`` counts when the type is the task's own, so that a path like ``data/mnli`` stays a path.
    """
    kind, slash, leaf = name.rpartition("/")
    task = _BY_SPELLING.get(fold(leaf))
    return task if task and (not slash or kind.casefold() == task.family.casefold()) else None
