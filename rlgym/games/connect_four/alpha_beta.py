"""Alpha-beta search for Connect Four, compiled by numba, used by `rlgym.games.connect_four.solver`.

Boards are those of connect_four.py: `own` the stones of the player to move, `mask` all stones, column by column from
the bottom, each with an empty bit above it. A score is positive where the player to move wins: 1 with the winner's last
stone, 2 with the one before, and so on. Score and search follow Pascal Pons (http://blog.gamesolver.org).
"""

from __future__ import annotations

import numpy as np

from rlgym.common.jit import compiled
from rlgym.envs.spaces import Array
from rlgym.games.connect_four.rules import BOTTOMS, COLUMNS, FULL, HEIGHT, ROWS

CELLS = ROWS * COLUMNS
BOARD: int = FULL
BOTTOM = sum(BOTTOMS)
COLUMN = 2**ROWS - 1
CENTRE_FIRST = np.array(sorted(range(COLUMNS), key=lambda column: abs(column - COLUMNS // 2)))


@compiled
def count_bits(x: int) -> int:
    """Population count of at most 56 bits."""
    x = x - ((x >> 1) & 0x55555555555555)
    x = (x & 0x33333333333333) + ((x >> 2) & 0x33333333333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F
    return ((x * 0x01010101010101) & 0xFFFFFFFFFFFFFF) >> 48


@compiled
def winning_cells(own: int, mask: int) -> int:
    """Empty cells, reachable now or later, that complete four of `own`."""
    found = (own << 1) & (own << 2) & (own << 3)
    for step in (HEIGHT - 1, HEIGHT, HEIGHT + 1):
        pair = (own << step) & (own << 2 * step)
        found |= pair & (own << 3 * step)
        found |= pair & (own >> step)
        pair = (own >> step) & (own >> 2 * step)
        found |= pair & (own << step)
        found |= pair & (own >> 3 * step)
    return found & (BOARD ^ mask)


@compiled
def wins_at_once(own: int, mask: int) -> bool:
    return (winning_cells(own, mask) & (mask + BOTTOM)) != 0


@compiled
def safe_moves(own: int, mask: int) -> int:
    """Playable cells that do not let the opponent win at once; 0 if there is none. The player to move must not have an
    immediate win."""
    cells = (mask + BOTTOM) & BOARD
    theirs = winning_cells(own ^ mask, mask)
    forced = cells & theirs
    if forced:
        if forced & (forced - 1):
            return 0
        cells = forced
    return cells & ~(theirs >> 1)  # nothing below a cell in which they win


@compiled
def search(own: int, mask: int, stones: int, alpha: int, beta: int, table: Array, order: Array, nodes: Array) -> int:
    """A bound of the score: the score itself inside (alpha, beta), an upper bound at or below alpha, a lower bound at
    or above beta. The player to move must not have an immediate win. table [slots]: transposition table: a position's
    key, and in eight bits 128 + twice a bound of its score, plus 1 for an upper bound. order [CELLS, COLUMNS]: scratch
    space.
    """
    nodes[0] += 1
    moves = safe_moves(own, mask)
    if moves == 0:
        return -((CELLS - stones) // 2)
    if stones >= CELLS - 2:
        return 0
    low = -((CELLS - 2 - stones) // 2)  # the opponent cannot win at once either
    if alpha < low:
        alpha = low
        if alpha >= beta:
            return alpha
    high = (CELLS - 1 - stones) // 2
    if beta > high:
        beta = high
        if alpha >= beta:
            return beta
    key = own + mask
    slot = key % len(table)
    entry = table[slot]
    if entry >> 8 == key:
        found = ((entry & 255) - 128) >> 1
        if entry & 1:
            if beta > found:
                beta = found
                if alpha >= beta:
                    return beta
        elif alpha < found:
            alpha = found
            if alpha >= beta:
                return alpha

    # Best first: moves that create most winning cells, then central ones.
    count = 0
    ranked = order[stones]
    for place in range(COLUMNS):
        column = CENTRE_FIRST[place]
        move = moves & (COLUMN << HEIGHT * column)
        if move:
            rank = count_bits(winning_cells(own | move, mask | move)) * 64 + (COLUMNS - place) * 8 + column
            at = count
            while at > 0 and ranked[at - 1] < rank:
                ranked[at] = ranked[at - 1]
                at -= 1
            ranked[at] = rank
            count += 1
    for at in range(count):
        column = ranked[at] & 7
        move = moves & (COLUMN << HEIGHT * column)
        score = -search(own ^ mask, mask | move, stones + 1, -beta, -alpha, table, order, nodes)
        if score >= beta:
            table[slot] = (key << 8) | (128 + 2 * score)
            return score
        if score > alpha:
            alpha = score
    table[slot] = (key << 8) | (128 + 2 * alpha + 1)
    return alpha


@compiled
def solve(own: int, mask: int, least: int, most: int, table: Array, order: Array, nodes: Array) -> int:
    """The score of a running game, clipped to [least, most]: bisection by null windows, closest to a draw first."""
    stones = count_bits(mask)
    if wins_at_once(own, mask):
        return min(most, (CELLS + 1 - stones) // 2)
    least = max(least, -((CELLS - stones) // 2))
    most = min(most, (CELLS - 1 - stones) // 2)
    floor, ceiling = least, most
    while least < most:
        middle = least + (most - least) // 2
        if middle <= 0 and -(-least // 2) < middle:
            middle = -(-least // 2)
        elif middle >= 0 and most // 2 > middle:
            middle = most // 2
        bound = search(own, mask, stones, middle, middle + 1, table, order, nodes)
        if bound <= middle:
            most = bound
        else:
            least = bound
    return max(floor, min(ceiling, least))  # a bound may lie outside of the range
