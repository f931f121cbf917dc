"""Judge ranked attributes on test images, which chose nothing, beside the directions they are compared with."""

from collections.abc import Collection, Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from explain_core.diffex.attributes import Attribute
from explain_core.diffex.directions import Bank, supervised
from explain_core.diffex.ranking import Prepared, attfind, effects
from explain_core.diffex.subject import Question, Subject
from explain_core.engine import choose_device
from explain_core.files import read_json, write_json
from training.diffex.explain import EFFECTS, Found, Record, decoded, key, opposite, within
from training.diffex.request import Materials, Request
from training.measure import attributes as measure
from training.measure.factors import true_effects
from training.progress import Progress, silent

Floats = NDArray[np.float64]
JUDGED = "judged.json"


def judge(asked: Request, given: Materials, found: Found, progress: Progress = silent) -> Record:
    """Everything that test images say, as lists for JSON; `progress` is told after every direction."""
    settings, subject = asked.settings, given.subject
    device = choose_device(settings.device)
    result = found.attributes
    referee = measure.Judge(result.model, subject, result.bank, settings.decoding(), given.oracle, given.reader)
    kept = read_json(asked.out / EFFECTS)
    record: Record = {"use": found.use, "gap": found.gap, "questions": {}}
    questions = subject.questions()
    for number, question in enumerate(questions):
        progress(number / len(questions))
        own = result.of(question)
        chosen, places = opposite(given.test.images, subject, question, settings.ranked, device)
        ready, use = decoded(result.model, subject, chosen, question, referee.how)
        foreseen = kept[key(question)][settings.noise]
        observed = effects(
            result.model,
            subject,
            result.bank,
            ready,
            question,
            settings.strength * found.gap,
            referee.how,
            within(progress, number / len(questions), (number + 0.5) / len(questions)),
        )
        columns = [one.column for one in own]
        rows: Record = {
            "patients": [given.test.patients[place] for place in places[use]],
            "attributes": [_row(referee, ready, question, one.column, one.length, one.name) for one in own],
            "references": [
                _row(referee, ready, question, column, settings.strength * found.gap, name)
                for name, column in _references(result.bank, foreseen["probability"], _others(subject, question))
            ],
            "order": {
                "tau": order(foreseen["probability"], observed.probability.mean(axis=0).tolist()),
                "tau_evidence": order(foreseen["evidence"], observed.evidence.mean(axis=0).tolist()),
                "tau_noise": order(
                    foreseen["probability"],
                    kept[key(question)]["inverted" if settings.noise == "fixed" else "fixed"]["probability"],
                ),
            },
            "whole_bank": [_name(result.bank, c) for c in attfind(observed.probability, settings.attributes)],
            "together": [one.tolist() for one in referee.together(ready, question, columns, _length(own))],
            "random": [one.tolist() for one in referee.at_random(ready, question, columns, _length(own))],
        }
        if given.reader is not None and given.redraw is not None:
            factors, patients = given.reader.factors, given.test.patients
            rows["truth"] = true_effects(subject, question, patients, factors, given.redraw, settings.size, device)
        record["questions"][subject.named(question)] = rows
    if given.reader is not None:
        record["factors"] = [asdict(factor) for factor in given.reader.factors]
        record["meter"] = given.reader.explained.tolist()
    write_json(asked.out / JUDGED, record)
    return record


def _length(own: Sequence[Attribute]) -> float:
    return own[0].length if own else 0.0


def _name(bank: Bank, column: int) -> str:
    return f"{'-' if column % 2 else '+'}{bank.names[column // 2]}"


def order(foreseen: Sequence[float], observed: Sequence[float]) -> float:
    """Kendall's tau of two effects of every direction at the sign that was foreseen to do more.

    Over both signs it would be nearly free: what one sign gives the other takes.

    Args:
        foreseen: mean effects of the bank's columns: of each direction its positive, then its negative sign.
        observed: the same of other images or noise.
    """
    columns = [2 * n + int(foreseen[2 * n + 1] > foreseen[2 * n]) for n in range(len(foreseen) // 2)]
    one, other = (np.asarray(effects)[columns] for effects in (foreseen, observed))
    return float(stats.kendalltau(one, other).statistic)


def _others(subject: Subject, question: Question) -> set[str]:
    """Directions that know the decision about another answer, which is no control for this one."""
    answers = {one.output: subject.named(one) for one in subject.contrasts()}
    others = [name for output, name in answers.items() if len(answers) > 1 and output != question.output]
    return {name for other in others for name in supervised(tuple(answers.values()), other)}


def _references(bank: Bank, foreseen: Sequence[float], without: Collection[str]) -> list[tuple[str, int]]:
    """Every direction but some, with the sign that was foreseen to do more."""
    found = []
    for number, name in enumerate(bank.names):
        if name not in without:
            found.append((name, 2 * number + int(foreseen[2 * number + 1] > foreseen[2 * number])))
    return found


def _row(referee: measure.Judge, ready: Prepared, question: Question, column: int, length: float, name: str) -> Record:
    found = referee.column(ready, question, column, length)
    row: Record = {
        "name": name,
        "direction": _name(referee.bank, column),
        "probability": found.probability.tolist(),
        "evidence": found.evidence.tolist(),
        "crossed": found.crossed.astype(int).tolist(),
        "monotone": found.monotone.astype(int).tolist(),
        "picture": np.round(found.picture, 4).tolist(),
    }
    if found.oracle is not None:
        row["oracle"] = found.oracle.tolist()
    if found.factors is not None and referee.meter is not None:
        change = found.factors.mean(axis=0)
        row["factors"] = {f.name: float(v) for f, v in zip(referee.meter.factors, change, strict=True)}
        row["selectivity"] = measure.selectivity(found.factors)
        row["factor"] = referee.meter.factors[int(np.abs(change).argmax())].name
    return row
