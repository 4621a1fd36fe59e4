"""What columns of rows can be, and the names that data sets have for them (layer L1)."""

from __future__ import annotations

from clora_cli.data import choices

__all__ = ["ANSWERS", "ROLES", "WIDER"]

ROLES = {
    "messages": ("messages",),
    "conversations": ("conversations", "conversation"),
    "instruction": ("instruction",),
    "prompt": ("prompt",),
    "completion": ("completion", "response", "answer"),
    "text": ("text", "sentence"),
    "label": ("label", "gold_label"),
    "input": ("input", "context"),
    "output": ("output", "response"),
    "system": ("system", "system_prompt"),
    "history": ("history",),
    "tools": ("tools", "functions"),
    "first": ("sentence1", "premise", "question1", "text1", "text_a", "sentence_a"),
    "second": ("sentence2", "hypothesis", "question2", "text2", "text_b", "sentence_b"),
    "question": ("question",),
    "sentence": ("sentence", "passage"),
    "context": ("context", "passage", "paragraph", "article", "premise"),
    "answer": ("answer", "answers"),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "verdict": ("kto_tag", "label"),
    "stem": ("question", "question_stem", "ctx", "goal", "sentence"),
    "choices": ("choices", "options", "endings"),
    "image": ("image", "img"),
    "key": ("answerkey", "answer_idx", "answer_index", "answer_key", "cop", "answer", "label"),
    **choices.COLUMNS,
}
# Ambiguous names of columns: used only if no other set of columns fits, and with a note.
WIDER = {
    "text": ("content", "review", "review_body", "tweet", "body"),
    "label": ("labels", "class", "category", "sentiment", "target"),
    "prompt": ("query",),
    "image": ("file_name", "filename", "image_path", "img_path", "photo", "picture"),
    "completion": ("output", "target", "targets"),
    "input": ("inputs", "source", "document", "article", "dialogue"),
    "output": ("targets", "target", "completion", "answer", "summary", "highlights"),
    "answer": ("response", "output", "best_answer", "target"),
}
ANSWERS = frozenset({"completion", "label", "output", "answer", "chosen", "key"})  # roles that a prompt does not need
