"""The rule of thumb is judged on tasks that it did not see, beside the more frequent answer."""

import pytest
from test_proprio_map import cells, filled  # noqa: F401  (fixtures)

from experiments.tables.ledger import LedgerError
from experiments.tables.looks import Looks
from experiments.tables.proprio_map import Place
from experiments.tables.render import render
from experiments.tables.rule_of_thumb import PREDICTORS, best_rule, judge, predictors_of, rule_text
from experiments.tables.tables import TABLES
from gap_vla.rollouts.statistics import PairedDifference


def place(task, gain, history=1, v=0.5):
    return Place(task, "near", history, v, v + gain, PairedDifference(gain, (gain, gain), 1.0, (gain,), 1, 100))


def values(number, other=0.0):
    return dict.fromkeys(PREDICTORS, other) | {"pictures, transitions": number}


GAINS = {"a": -0.2, "b": -0.3, "c": 0.1, "d": 0.2, "e": -0.1}


def test_a_rule_that_holds_everywhere_is_right_about_every_task_left_out():
    places = [place(task, gain) for task, gain in GAINS.items()]
    found = judge(places, [values(gain) for gain in GAINS.values()])
    assert (found.asked, found.right) == (5, 5)
    assert {(rule.predictor, rule.sign) for rule in found.rules.values()} == {("pictures, transitions", -1)}


def test_what_holds_by_chance_is_not_right_about_the_task_left_out():
    places = [place(task, -abs(gain) if task != "c" else gain) for task, gain in GAINS.items()]
    found = judge(places, [values(0.0) for _ in GAINS])
    assert found.right == found.right_by_frequency == 4


def test_small_differences_and_places_that_say_nothing_are_not_asked_about():
    places = [place("a", -0.2), place("b", 0.3), place("c", 0.04), place("d", 0.2), place("e", -0.06, v=0.04)]
    found = judge(places, [values(gain) for gain in (-1, 1, 0, 1, -1)])
    assert found.asked == 3 and set(found.rules) == {"a", "b", "d"}
    assert judge(places[:2], [values(-1), values(1)]) is None


def test_the_best_rule_is_right_most_often_and_the_first_of_equals():
    rule = best_rule([values(0.1, 1.0), values(0.2, 2.0), values(0.3, 0.5)], [True, True, False])
    assert (rule.predictor, rule.sign, rule.threshold, rule.right) == ("time, transitions", 1, 0.75, 3)
    assert rule.says_hurts(0.8) and not rule.says_hurts(0.7)


def test_vp_with_history_is_asked_with_the_errors_of_history():
    errors = {
        name: {"transitions": number, "between": number / 2}
        for number, name in enumerate(("time", "state", "history", "pictures", "state+pictures", "history+pictures"))
    }
    one, five = predictors_of(errors, 1), predictors_of(errors, 5)
    assert (one["state, transitions"], five["state, transitions"]) == (1, 2)
    assert (one["pictures beyond state, transitions"], five["pictures beyond state, transitions"]) == (-3, -3)
    assert one["state beyond pictures, transitions"] == -1 and five["state, between"] == 1


def test_the_page_of_the_map_tells_it(cells, filled, tmp_path):  # noqa: F811
    table = TABLES["map"]
    errors = {name: {"transitions": 0.5, "between": 0.2} for name in ("time", "state", "history", "pictures")}
    errors |= {f"{name}+pictures": {"transitions": 0.4, "between": 0.1} for name in ("state", "history")}
    page = tmp_path / "page.md"
    page.write_text("")
    render(table, "cpu", cells, filled, page)
    assert "leave-one-task-out" not in page.read_text()
    for cell in cells:
        if cell.arm.name == "vision" and (entry := filled.matching(cell)):
            Looks(filled).add(entry, predictors={"errors": errors, "steps": 9, "episodes": 5, "in_transitions": 0.3})
    render(table, "cpu", cells, filled, page)
    assert "A rule of thumb, leave-one-task-out: right about the sign of VP − V in" in page.read_text()
    assert rule_text([], {}) == []
    told = page.read_text()
    entry = next(one for cell in cells if cell.arm.name == "vision" and (one := filled.matching(cell)))
    Looks(filled).add(entry, predictors={"errors": {"time": {}}})
    with pytest.raises(LedgerError, match=r"looks: no '.*'; move the look that is damaged away, and look again"):
        render(table, "cpu", cells, filled, page)
    assert page.read_text() == told
    assert told.count("| 0.50 | 0.50 | 0.20 | 0.50 | 0.40 | 0.10 | 0.10 |") == 12


@pytest.mark.parametrize("gains", [(-0.2, -0.3), (-0.2,)])
def test_too_few_tasks_give_no_rule(gains):
    assert judge([place(str(n), gain) for n, gain in enumerate(gains)], [values(0.0) for _ in gains]) is None
