"""Forget a person from the embedded model, ask before and after, and undo it: the whole Python API in one screen."""

from lunar import Record, Settings, answer_records, load_model, unlearn

PERSON = "Mira Tolvane"
QUESTIONS = ["Where was {} born?", "What does {} do for a living?", "Which instrument does {} play?", "Who employs {}?"]


def main() -> None:
    loaded = load_model("tiny")
    forget = [Record.of(question.format(PERSON)) for question in QUESTIONS]
    asked = [Record.of(f"Can you tell me where {PERSON} was born?"), Record.of("Where was Joren Tolvane born?")]

    before = answer_records(loaded, asked)
    # Without a layer it would be searched for, which takes longer than the edit.
    edit = unlearn(loaded, forget, settings=Settings(target="shift", layer=0)).edit
    edit.apply(loaded.model)
    after = answer_records(loaded, asked)
    edit.revert(loaded.model)
    assert answer_records(loaded, asked) == before

    for record, old, new in zip(asked, before, after, strict=True):
        print(f"{record.prompt}\n  before: {old}\n  after:  {new}")


if __name__ == "__main__":
    main()
