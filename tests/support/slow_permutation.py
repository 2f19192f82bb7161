"""The permutation of `opengte.data.sampling`, with Python integers, one number at a time."""

from opengte.data.sampling.permutation import ROUNDS

MASK = 2**64 - 1


def slow_finish(word: int) -> int:
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & MASK
    word = (word ^ word >> 27) * 0x94D049BB133111EB & MASK
    return word ^ word >> 31


def slow_mix(*parts: int) -> int:
    state = 0
    for part in parts:
        word = slow_finish((part & MASK) + 0x9E3779B97F4A7C15 & MASK)
        state = slow_finish((state + 0x9E3779B97F4A7C15 & MASK) ^ word)
    return state


def slow_permutation(n: int, key: int) -> list[int]:
    """Permute all numbers, one by one: walk until inside."""
    bits = 1
    while 4**bits < n:
        bits += 1
    found = []
    for value in range(n):
        while True:
            left, right = value >> bits, value & (2**bits - 1)
            for number in range(ROUNDS):
                left, right = (
                    right,
                    left ^ slow_finish(right + slow_mix(key, number) & MASK) & (2**bits - 1),
                )
            value = left << bits | right
            if value < n:
                break
        found.append(value)
    return found
