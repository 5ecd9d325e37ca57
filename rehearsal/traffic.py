"""A traffic split: what Google refuses of one, and who is next."""

from collections.abc import Mapping

from rehearsal.errors import Refused


def check(split: Mapping[str, int], deployed: set[str]) -> None:
    """Refuse a split that does not sum to 100, or names what is not deployed."""
    if not split:
        return
    if sum(split.values()) != 100 or min(split.values()) < 0:
        raise Refused(
            "INVALID_ARGUMENT", f"Traffic percentages must sum to 100, but they are {dict(split)}."
        )
    if unknown := set(split) - deployed:
        raise Refused(
            "INVALID_ARGUMENT",
            f"Traffic split names deployed models that do not exist: {', '.join(sorted(unknown))}.",
        )


class Turns:
    """Picks deployed models in the split's proportions, evenly spread: of any 100 picks, its percents."""

    def __init__(self) -> None:
        self._owed: dict[str, int] = {}

    def pick(self, split: Mapping[str, int]) -> str:
        """Return who is next; raise Refused where nobody is."""
        shares = {number: percent for number, percent in split.items() if percent > 0}
        if not shares:
            raise Refused(
                "FAILED_PRECONDITION", "The endpoint has no deployed model that receives traffic."
            )
        self._owed = {
            number: self._owed.get(number, 0) + percent for number, percent in shares.items()
        }
        chosen = max(self._owed, key=lambda number: self._owed[number])
        self._owed[chosen] -= 100
        return chosen
