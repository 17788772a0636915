"""Environments stepped in worker processes, each holding an equal share of them and running the code of `sync`.

Observations, rewards and flags are in shared memory; a pipe carries the actions and other results.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Any

import numpy as np
from gymnasium.vector.utils import CloudpickleWrapper

from rlgym.common.pool import heeded
from rlgym.envs.batch import BatchEnv, Step, mask_size
from rlgym.envs.buffers import Buffers, allocate
from rlgym.envs.snapshot import pack, unpack
from rlgym.envs.spaces import Array, Leaf, Obs
from rlgym.envs.sync import MakeEnv, SyncEnv, lost_words
from rlgym.errors import RequestError, TrainingError
from rlgym.learner import Section


class WorkerTraceback(Exception):
    """A worker's traceback as text, set as the cause of the error raised here, so that log.txt shows it."""


class AsyncEnv(BatchEnv):
    backend = "async"

    def __init__(self, id: str, make: MakeEnv, num_envs: int, *, check: bool = True) -> None:
        first = make()  # for the spaces; the workers build their own
        super().__init__(id, num_envs, first.observation_space, first.action_space)
        first.close()
        # fork, where safe, keeps environments registered in this process
        self._context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        count = min(num_envs, os.cpu_count() or 1)
        edges = [num_envs * k // count for k in range(count + 1)]
        self._shares = [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]
        size = mask_size(self.action_space)
        self._memory: list[Any] = []
        self._buffers = allocate(self.leaves, num_envs, size, self._shared_zeros)
        self._said: dict[str, str] = {}  # the notices of all workers, one per leaf
        self._pipes: list[Connection] = []
        self._workers: list[Any] = []
        # Also at interpreter exit, before it waits for workers, which ignore its SIGTERM.
        self._end = Finalize(None, _end_workers, (self._pipes, self._workers), exitpriority=0)
        # No worker may collect what this process made: the threads of a batched environment do not survive a fork,
        # and destroying one without them is a segmentation fault (EnvPool).
        gc.freeze()
        for share in self._shares:
            ours, theirs = self._context.Pipe()
            arguments = (
                theirs, ours, id, CloudpickleWrapper(make), check, self.leaves, num_envs, size, self._memory,
                (share.start, share.stop), os.getpid(),
            )  # fmt: skip
            worker = self._context.Process(target=_work, args=arguments, daemon=True)  # type: ignore[attr-defined]
            worker.start()
            theirs.close()  # the worker then has the only copy, so that its death gives an end of file here
            self._pipes.append(ours)
            self._workers.append(worker)
        gc.unfreeze()

    def _shared_zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        memory = self._context.RawArray(ctypes.c_byte, max(1, math.prod(shape) * dtype.itemsize))
        self._memory.append(memory)
        return _as_array(memory, shape, dtype)

    def _call(self, name: str, *arguments: Any) -> list[Any]:
        """Call a method of every worker; each of `arguments` has one entry per worker."""
        for k, pipe in enumerate(self._pipes):
            try:
                pipe.send((name, *(argument[k] for argument in arguments)))
            except OSError:
                raise self._death(k) from None
        answers, failure = [], None
        for k, pipe in enumerate(self._pipes):
            try:
                fine, answer, said = pipe.recv()
            except (EOFError, OSError):
                raise self._death(k) from None
            self.notices += [line for leaf, line in said.items() if leaf not in self._said]
            self._said = said | self._said
            if not fine:
                failure = failure or answer
            answers.append(answer)
        if failure is not None:
            kind, line, trace = failure
            raise (RequestError if kind == "RequestError" else TrainingError)(line) from WorkerTraceback(trace)
        return answers

    def _death(self, k: int) -> TrainingError:
        self._workers[k].join(5)
        code = self._workers[k].exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit code {code}"
        share = self._shares[k]
        return TrainingError(f"{self.id}: the worker process of environments {share.start}-{share.stop - 1} {how}")

    def reset(self, seed: int) -> Obs:
        masked = self._call("reset", [seed + share.start for share in self._shares])
        self.action_mask = self._buffers.mask if masked[0] else None
        return self._buffers.obs

    def step(self, actions: Array) -> Step:
        buffers = self._buffers
        answers = self._call("step", [actions[share] for share in self._shares])
        reward = np.sign(buffers.reward) if self.clip_reward else buffers.reward
        step = Step(buffers.obs, reward, buffers.terminated, buffers.truncated, action_mask=self.action_mask)
        for share, (episodes, ended) in zip(self._shares, answers, strict=True):
            for episode in episodes:
                episode.env += share.start
            step.episodes += episodes
            if ended:
                step.final_obs = buffers.final
        return step

    def state_dict(self) -> Section:
        return pack([snapshot for share in self._call("snapshots") for snapshot in share])

    def load_state_dict(self, section: Section) -> Obs:
        snapshots = unpack(section)
        answers = self._call("restore", [snapshots[share] for share in self._shares])
        self.action_mask = self._buffers.mask if answers[0][1] else None
        lost = [lane for lanes, _ in answers for lane in lanes]
        self.restore_report = lost_words(self.id, lost, self.num_envs)
        return self._buffers.obs

    def verify_restores(self) -> bool:
        self.restores = self._call("try_restore")[0]
        return self.restores == "exact"

    def close(self) -> None:
        self._end()

    def __del__(self) -> None:
        if hasattr(self, "_end"):
            self._end()


def _end_workers(pipes: list[Connection], workers: list[Any]) -> None:
    for pipe in pipes:
        with contextlib.suppress(OSError):
            pipe.send(("close",))
    for worker in workers:
        worker.join(2)
        if worker.is_alive():  # stuck in an environment
            worker.kill()
            worker.join()
    for pipe in pipes:
        pipe.close()
    pipes.clear()
    workers.clear()


def _as_array(memory: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    return np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)


def _attach(leaves: tuple[Leaf, ...], num_envs: int, size: int, memory: list[Any]) -> Buffers:
    """Rebuild the learner's buffers over the shared memory, in the order of allocation."""
    blocks = iter(memory)
    return allocate(leaves, num_envs, size, lambda shape, dtype: _as_array(next(blocks), shape, dtype))


def _work(
    pipe: Connection,
    parents: Connection,
    id: str,
    make: MakeEnv,
    check: bool,
    leaves: tuple[Leaf, ...],
    num_envs: int,
    size: int,
    memory: list[Any],
    share: tuple[int, int],
    parent: int,
) -> None:
    """A worker's main function: build environments, then answer calls until closed or orphaned."""
    for (
        number
    ) in heeded():  # signals reach the whole process group; the learner saves a checkpoint and then ends its workers
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    parents.close()
    if "torch" in sys.modules:  # inherited by fork, with thread pools that did not survive it
        sys.modules["torch"].set_num_threads(1)
    env: SyncEnv | None = None
    while True:
        try:
            name, *arguments = pipe.recv()
            if name == "close":
                break
            if env is None:
                buffers = _attach(leaves, num_envs, size, memory).lanes(*share)
                env = SyncEnv(id, make, share[1] - share[0], check=check, buffers=buffers, first=share[0])
            pipe.send((True, _answer(env, name, arguments), env.said))
        except (EOFError, BrokenPipeError):
            break
        except (Exception, KeyboardInterrupt) as error:  # Ctrl-C is ignored here, so this is the environment's own
            line = str(error) if isinstance(error, TrainingError | RequestError) else f"{id}: {name} raised {error!r}"
            pipe.send((False, (type(error).__name__, line, traceback.format_exc()), {}))
    if env is not None:
        env.close()


def _end_with(parent: int) -> None:
    """Exit when the learner has died; polled in a thread, since an environment's step may take long."""
    while os.getppid() == parent:
        time.sleep(0.25)
    os._exit(1)


def _answer(env: SyncEnv, name: str, arguments: list[Any]) -> Any:
    if name == "step":
        step = env.step(*arguments)
        return step.episodes, step.final_obs is not None
    if name == "reset":
        env.reset(*arguments)
        return env.action_mask is not None
    if name == "restore":
        return env.restore(*arguments), env.action_mask is not None
    return getattr(env, name)()
