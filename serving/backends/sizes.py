"""Good sizes of calls. 1 is used only if nothing else is allowed: a row alone is rounded otherwise."""

FIXED = 32
"""Rows of every call where the size of calls must not change a row's bits, or the largest below: no clock chose it."""


def dense(most: int) -> tuple[int, ...]:
    """Every size to 16, then steps of 2 to 32, of 4 to 64 and so on: less than an eighth of a call is padding.

    For backends that prepare nothing for a size.
    """
    sizes, size, step = list[int](), 2, 1
    while size < most:
        sizes.append(size)
        if size == 16 * step:
            step *= 2
        size += step
    return (*sizes, most)


def ladder(most: int) -> tuple[int, ...]:
    """2, 3, 4, 6, 8, 12, 16, 24, ...: at most a third of a call is padding.

    For backends that hold something for each size, such as a captured graph.
    """
    steps = sorted({size << power for size in (2, 3) for power in range(most.bit_length())})
    return (*(size for size in steps if size < most), most)
