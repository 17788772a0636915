"""A poker table as a picture."""

from __future__ import annotations

import numpy as np

from rlgym.envs.spaces import Array

WIDTH, HEIGHT = 320, 240
TABLE, CHIPS, FACE, BACK, INK = (25, 105, 65), (235, 225, 180), (250, 250, 245), (60, 80, 150), (20, 20, 20)
CARD = (48, 68)
"""Width and height of a card."""


def picture(cards: list[str], common: str | None, paid: tuple[int, int], moves: list[str]) -> Array:
    """Draw `[240, 320, 3]` uint8: the cards of player 0 on the left and player 1 on the right, their chips below, the
    common card in between, and the moves so far. A card is a letter; "?" is face down."""
    from PIL import Image, ImageDraw, ImageFont  # rarely needed

    drawing = ImageDraw.Draw(image := Image.new("RGB", (WIDTH, HEIGHT), TABLE))
    letters, words = ImageFont.load_default(36), ImageFont.load_default(14)
    for middle, card in ((70, cards[0]), (WIDTH // 2, common), (WIDTH - 70, cards[1])):
        if card is None:
            continue
        x, y = middle - CARD[0] // 2, 50
        drawing.rounded_rectangle((x, y, x + CARD[0], y + CARD[1]), 6, BACK if card == "?" else FACE, INK)
        if card != "?":
            drawing.text((middle, y + CARD[1] // 2), card, INK, letters, anchor="mm")
    for middle, player, chips in ((70, 0, paid[0]), (WIDTH - 70, 1, paid[1])):
        drawing.text((middle, 30), f"player {player}", CHIPS, words, anchor="mm")
        drawing.text((middle, 140), f"{chips} in the pot", CHIPS, words, anchor="mm")
    for line in range(0, len(moves), 4):
        drawing.text((WIDTH // 2, 175 + 5 * line), " ".join(moves[line : line + 4]), CHIPS, words, anchor="mm")
    return np.asarray(image).copy()
