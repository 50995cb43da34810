"""Climbing a ladder of candidates: when it ends, and which of them is taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converter import search
from converter.recipe import Bounds, Budget
from converter.samples import Samples
from converter.search import Candidate, Found, Ladder, Score, Selection
from service.errors import ModelUnusable
from service.session import Session, SessionOptions
from tests import models
from tests.converter import nets


def good(speedup: float = 2.0) -> Score:
    return Score(0, 100, 0.1, speedup, good=True)


def bad(spoiled: int = 50, *, distance: float = 1.0, speedup: float = 2.0) -> Score:
    return Score(spoiled, 100, distance, speedup, good=False)


class Climb:
    """A ladder whose rungs and their scores are given, and a clock that moves by hand.

    Attributes:
        told: what was sent back to the ladder.
        closed: whether it was closed.
    """

    def __init__(self, *rungs: tuple[Candidate, Score], seconds: float = 1.0) -> None:
        self.rungs = dict(rungs)
        self.seconds = seconds
        self.now = 0.0
        self.tried: list[str] = []
        self.sent: list[Score] = []
        self.closed = False

    def ladder(self) -> Ladder:
        try:
            for rung in self.rungs:
                self.sent.append((yield rung))
        finally:
            self.closed = True

    def score(self, candidate: Candidate) -> Score:
        self.now += self.seconds
        return self.rungs[candidate]

    def best(self, least_speedup: float = 1.0, budget: Budget | None = None) -> Found:
        ladder = self.ladder()  # held, so that nobody else closes it
        found = search.best(
            ladder,
            self.score,
            least_speedup=least_speedup,
            budget=budget or Budget(seconds=1000, trials=1000),
            tell=self.tried.append,
            clock=lambda: self.now,
        )
        assert self.closed
        return found


def rung(how: str, *, probe: bool = False, step: bool = False) -> Candidate:
    return Candidate(Path(how), how, probe=probe, step=step)


PLAIN, EQUAL, LAST = rung("plain"), rung("equalized"), rung("last")


def test_the_first_that_does_well_ends_it() -> None:
    climb = Climb((PLAIN, bad()), (EQUAL, good()), (LAST, good()))
    assert climb.best() == Found(EQUAL, good(), trials=2)
    assert climb.tried == ["plain", "equalized"]


def test_the_ladder_is_sent_how_each_candidate_did() -> None:
    scores = [bad(9), bad(8), good()]
    climb = Climb(*zip((PLAIN, EQUAL, LAST), scores, strict=True))
    climb.best()
    assert climb.sent == scores[:-1]


def test_a_first_candidate_that_is_too_slow_ends_it() -> None:
    climb = Climb((PLAIN, bad(speedup=0.5)), (EQUAL, good()))
    found = climb.best()
    assert (found.candidate, found.trials) == (PLAIN, 1)


def test_where_speed_does_not_matter_none_is_too_slow() -> None:
    climb = Climb((PLAIN, bad(speedup=0)), (EQUAL, good(speedup=0)))
    assert climb.best(least_speedup=0).candidate == EQUAL


def test_a_later_candidate_that_is_too_slow_ends_it_and_the_best_so_far_is_taken() -> None:
    climb = Climb((PLAIN, bad(3)), (EQUAL, bad(7, speedup=0.5)), (LAST, good()))
    found = climb.best()
    assert (found.candidate, found.trials) == (PLAIN, 2)


def test_steps_go_on_after_they_did_well_and_the_last_good_one_wins() -> None:
    one, two, three = (rung(name, step=True) for name in ("one", "two", "three"))
    climb = Climb((PLAIN, bad()), (one, good()), (two, good()), (three, bad()))
    assert climb.best() == Found(two, good(), trials=4)


def test_a_step_that_is_too_slow_does_not_end_it() -> None:
    one, two = rung("one", step=True), rung("two", step=True)
    climb = Climb((PLAIN, bad()), (one, good(speedup=0.5)), (two, good()))
    assert climb.best().candidate == two


def test_the_candidate_after_the_steps_ends_it() -> None:
    one = rung("one", step=True)
    climb = Climb((one, good()), (EQUAL, good()), (LAST, good()))
    assert climb.best() == Found(EQUAL, good(), trials=2)


def test_probes_never_win_and_never_end_it() -> None:
    probe = rung("probe", probe=True)
    climb = Climb((PLAIN, bad()), (probe, good(speedup=0)), (EQUAL, bad(40)))
    found = climb.best()
    assert (found.candidate, found.trials) == (EQUAL, 3)


def test_of_those_that_do_not_do_well_the_fewest_spoiled_and_the_nearest_wins() -> None:
    climb = Climb(
        (rung("a"), bad(9, distance=0.1)), (rung("b"), bad(5, distance=0.9)),
        (rung("c"), bad(5, distance=0.2)), (rung("d"), bad(5, distance=0.4)),
    )  # fmt: skip
    found = climb.best()
    assert (found.candidate.how, found.trials) == ("c", 4)
    assert found.told == "nothing more to try"


def test_one_that_does_not_do_well_never_takes_the_place_of_one_that_does() -> None:
    one = rung("one", step=True)
    climb = Climb((one, good()), (EQUAL, bad(0, distance=0)))
    assert climb.best().candidate == one


@pytest.mark.parametrize(
    ("budget", "trials"),
    [
        (Budget(seconds=2.5), 3),
        (Budget(trials=2), 2),
        (Budget(seconds=0), 1),
        (Budget(trials=1), 1),
    ],
)
def test_the_budget_ends_it_and_says_so(budget: Budget, trials: int) -> None:
    climb = Climb(*((rung(str(number)), bad(50 - number)) for number in range(10)))
    found = climb.best(budget=budget)
    assert (found.trials, found.candidate.how) == (trials, str(trials - 1))
    assert found.told == (
        f"the budget of {budget.seconds:g} s and {budget.trials} trials was spent"
    )


def test_what_is_found_within_the_budget_needs_no_excuse() -> None:
    one, two = rung("one", step=True), rung("two", step=True)
    climb = Climb((one, good()), (two, bad()))
    found = climb.best(budget=Budget(trials=2))
    assert (found.candidate, found.told) == (one, "")


def test_a_candidate_that_cannot_be_tried_is_an_error() -> None:
    climb = Climb((PLAIN, good()))
    with pytest.raises(ModelUnusable):
        search.best(climb.ladder(), fail, least_speedup=1, budget=Budget())


def fail(candidate: Candidate) -> Score:
    raise ModelUnusable(f"cannot load {candidate.path}")


def test_what_was_found_stays_found_where_the_next_candidate_cannot_be_made() -> None:
    def ladder() -> Ladder:
        yield PLAIN
        raise ValueError("the quantizer\nhas an idea")

    found = search.best(ladder(), lambda _: bad(), least_speedup=1, budget=Budget())
    assert (found.candidate, found.trials) == (PLAIN, 1)
    assert found.told == "the next trial failed: the quantizer"


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return models.double(tmp_path / "reference.onnx")


# Each row decides for the class of its one large number.
X = 3 * np.eye(4, dtype=np.float32)[np.arange(40) % 4]
ROWS = Samples({"x": X}, None)


def selection(reference: Path, **bounds: object) -> Selection:
    return Selection(Session(reference, SessionOptions()), ROWS, Bounds(**bounds))


@pytest.mark.parametrize("metric", ["auto", "agreement", "accuracy"])
def test_a_candidate_that_decides_the_same_spoils_nothing(reference: Path, metric: str) -> None:
    scored = selection(reference, metric=metric).score(Candidate(reference, ""), gated=False)
    assert scored == Score(0, 40, 0.0, 0.0, good=True)


def test_a_candidate_that_decides_otherwise_spoils_rows(reference: Path, tmp_path: Path) -> None:
    other = models.double(tmp_path / "other.onnx", factor=-2.0)
    scored = selection(reference).score(Candidate(other, ""), gated=False)
    assert (scored.spoiled, scored.rows, scored.good) == (40, 40, False)
    assert scored.distance > 1


def test_by_distance_what_moves_beyond_the_tolerance_is_spoiled(
    reference: Path, tmp_path: Path
) -> None:
    other = Candidate(models.double(tmp_path / "other.onnx", factor=2.2), "")
    near = selection(reference, metric="distance", tolerance=0.2).score(other, gated=False)
    far = selection(reference, metric="distance", tolerance=0.1).score(other, gated=False)
    assert (near.spoiled, near.good) == (0, True)
    assert (far.spoiled, far.good) == (40, False)
    assert near.distance == far.distance


def test_distance_is_a_number_even_of_answers_that_are_none(
    reference: Path, tmp_path: Path
) -> None:
    other = models.double(tmp_path / "other.onnx", factor=float("nan"))
    scored = selection(reference).score(Candidate(other, ""), gated=False)
    assert np.isfinite(scored.distance) and scored.spoiled == 40


def test_only_what_may_be_published_on_this_device_is_timed(reference: Path) -> None:
    rows = selection(reference)
    assert rows.score(Candidate(reference, ""), gated=True).speedup > 0
    assert rows.score(Candidate(reference, "", probe=True), gated=True).speedup == 0


def test_a_candidate_that_cannot_be_loaded_is_an_error(reference: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelUnusable):
        selection(reference).score(Candidate(tmp_path / "broken.onnx", ""), gated=False)


def test_a_net_that_decides_nothing_is_searched_by_distance(tmp_path: Path) -> None:
    path = nets.dense(tmp_path / "dense.onnx")
    rows = Samples({"x": np.random.default_rng(0).normal(size=(40, 32)).astype(np.float32)}, None)
    scored = Selection(Session(path, SessionOptions()), rows, Bounds()).score(
        Candidate(path, ""), gated=False
    )
    assert scored.good
