"""Bytes that are almost right: files and messages with a few edits, of the kinds that parsers trip over."""

import random
import struct

INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000,
               0xFFFFFFFE, 0xFFFFFFFF)  # fmt: skip
VRS = (
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV ZZ".split()
)
PIECES = (
    b"\xfe\xff\x00\xe0\xff\xff\xff\xff",  # an item of undefined length
    b"\xfe\xff\x0d\xe0\x00\x00\x00\x00",
    b"\xfe\xff\xdd\xe0\x00\x00\x00\x00",
    b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff",
    b"\x08\x00\x05\x00CS\x16\x00ISO 2022 IR 87\\FOO BAR",
    b"\x28\x00\x10\x00US\x04\x00\xff\xff\xff\xff",
    b"\x28\x00\x10\x00DS\x02\x00-1",
    b"\x28\x00\x50\x10DS\x04\x00nan ",
    b"\x28\x00\x51\x10DS\x06\x001e999 ",
    b"\x28\x00\x10\x30SQ\x00\x00\x08\x00\x00\x00\xfe\xff\x00\xe0\x00\x00\x00\x00",
    b"\xe0\x7f\x10\x00OW\x00\x00\xff\xff\xff\xff",
    b"\x1b$B",
    b"\\" * 4,
    b"\x00" * 16,
    b"\xff" * 16,
)  # fmt: skip


def mutated(data: bytes, chance: random.Random, other: bytes = b"") -> bytes:
    """`data` after one to eight edits; `other` is where pieces may come from."""
    made = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        if not made:
            break
        chance.choice(_EDITS)(made, _place(made, chance), chance, other)
    return bytes(made)


def _place(made: bytearray, chance: random.Random) -> int:
    """Anywhere, more often in the beginning, where headers are."""
    return int(len(made) * chance.random() ** chance.choice((1, 3)))


def _flip(made: bytearray, place: int, chance: random.Random, _other: bytes) -> None:
    made[place] ^= 1 << chance.randrange(8)


def _byte(made: bytearray, place: int, chance: random.Random, _other: bytes) -> None:
    made[place] = chance.randrange(256)


def _number(made: bytearray, place: int, chance: random.Random, _other: bytes) -> None:
    form = chance.choice(("<H", ">H", "<L", ">L"))
    limit = 1 << (8 * struct.calcsize(form))
    made[place : place + struct.calcsize(form)] = struct.pack(form, chance.choice(INTERESTING) % limit)


def _vr(made: bytearray, place: int, chance: random.Random, _other: bytes) -> None:
    """Another VR where one stands, which is where two capital letters are."""
    for start in range(place, min(place + 200, len(made) - 2)):
        if bytes(made[start : start + 2]) in VRS:
            made[start : start + 2] = chance.choice(VRS)
            return


def _cut(made: bytearray, place: int, chance: random.Random, _other: bytes) -> None:
    del made[place : place + chance.choice((1, 2, 8, 64, 4096))]


def _end(made: bytearray, place: int, _chance: random.Random, _other: bytes) -> None:
    del made[place:]


def _again(made: bytearray, place: int, chance: random.Random, _other: bytes) -> None:
    length = chance.choice((1, 8, 64, 512))
    made[place:place] = made[place : place + length] * chance.choice((1, 1, 16))


def _piece(made: bytearray, place: int, chance: random.Random, _other: bytes) -> None:
    made[place:place] = chance.choice(PIECES)


def _graft(made: bytearray, place: int, chance: random.Random, other: bytes) -> None:
    start = chance.randrange(max(1, len(other)))
    made[place:place] = other[start : start + chance.choice((8, 64, 512))]


_EDITS = (_flip, _byte, _number, _number, _vr, _cut, _end, _again, _piece, _graft)
