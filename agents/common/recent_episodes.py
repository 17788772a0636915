"""The latest training episodes, whose means are the learning curve."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from rlgym.run_folder.records import fits

if TYPE_CHECKING:
    from rlgym.envs.batch import Episode


class RecentEpisodes:
    """Mean return, length and success over the last 100 episodes, under Stable-Baselines3's tags."""

    def __init__(self, others: Callable[[], dict[str, float]] | None = None) -> None:
        """`others`: further metrics to report with them."""
        self.others = others
        self.episodes: deque[tuple[float, int, float | None]] = deque(maxlen=100)
        self.found: dict[str, float] | None = None
        """The metrics, recomputed only after an episode has ended."""

    def add(self, episodes: list[Episode]) -> None:
        for episode in episodes:
            self.episodes.append(
                (episode.ret, episode.length, None if episode.success is None else float(episode.success))
            )
        self.found = None

    def restore(self, episodes: Iterable[Sequence[Any]]) -> None:
        """Restore saved `episodes`. ValueError where they are malformed."""
        episodes = [list(episode) for episode in episodes]
        if not fits(episodes, list[list[float | None]]) or any(len(e) != 3 or None in e[:2] for e in episodes):
            raise ValueError("the recent episodes are not a return, a length and a success each")
        self.episodes.extend(cast(tuple[float, int, float | None], tuple(episode)) for episode in episodes)
        self.found = None

    def metrics(self) -> dict[str, float]:
        if not self.episodes:
            return {}
        if self.found is None:
            self.found = self._means()
        return self.found if self.others is None else self.found | self.others()

    def _means(self) -> dict[str, float]:
        returns, lengths, successes = zip(*self.episodes, strict=True)
        found = {
            "rollout/ep_rew_mean": sum(returns) / len(returns),
            "rollout/ep_len_mean": sum(lengths) / len(lengths),
        }
        known = [s for s in successes if s is not None]
        if known:
            found["rollout/success_rate"] = sum(known) / len(known)
        return found
