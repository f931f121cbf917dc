import threading

from working import wait_for

from dicom_node.errors import OutOfResources
from dicom_node.health.asking import Questions, Trouble


def raises(error):
    def ask():
        raise error

    return ask


def test_one_that_hangs_holds_up_nobody_and_is_asked_once():
    gate, asked = threading.Event(), []

    def hangs():
        asked.append(1)
        gate.wait()
        return "late"

    questions = Questions({"slow": hangs, "fast": lambda: 7}, limit=0.2, keep=0.0)
    for _ in range(3):
        assert questions.ask() == {"slow": Trouble(said="no answer within 0.2 s"), "fast": 7}
    assert asked == [1]
    gate.set()
    wait_for(lambda: questions.ask()["slow"] == "late")
    assert len(asked) == 2, "what it said so late is no answer to who asks now"


def test_answers_are_good_for_a_moment():
    asked = []
    questions = Questions({"one": lambda: asked.append(1)}, keep=60.0)
    questions.ask()
    questions.ask()
    assert asked == [1]


def test_an_error_of_ours_speaks_and_any_other_is_named():
    questions = Questions(
        {
            "ours": raises(OutOfResources("the ledger does not answer")),
            "system": raises(OSError(28, "No space left on device")),
            "other": raises(ValueError("Doe^John")),
        }
    )
    said = {name: one.said for name, one in questions.ask().items()}
    assert said == {"ours": "the ledger does not answer", "system": "No space left on device", "other": "ValueError"}
