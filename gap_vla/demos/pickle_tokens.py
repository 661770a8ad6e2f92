"""The numbers of a pickle of numpy arrays, read token by token: Python's pickle machine never sees the file.

A pickle is a program for a small stack machine, and Python's own machine calls what the program names. This one knows
the few steps of which dictionaries, lists and numpy arrays consist. It imports nothing and calls nothing by name.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from typing import IO, Any, BinaryIO, cast

import numpy as np

from gap_vla.demos.arrays import array_of

NEWEST_PROTOCOL = 5
DEEPEST = 64
SHARING = 64
"""Things that a pickle refers to repeatedly may add up to this many times its size, no more."""

_DTYPE = re.compile(r"(b1|[iu][1248]|f[248]|[US][1-9][0-9]{0,5})")
_CONSTANTS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_KEYS = (str, bytes, int, float, type(None))


class _Name:
    """A global that the pickle names; nothing is imported."""

    def __init__(self, module: str, name: str) -> None:
        self.full = f"{module}.{name}".replace("numpy.core.", "numpy._core.")
        if self.full not in _MAKERS and self.full != "numpy.ndarray":
            raise ValueError(f"it contains {module}.{name}; only dictionaries of numpy arrays are read")


class _Dtype:
    """The type of an array before its byte order is known."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if type(code) is not str or not _DTYPE.fullmatch(code):
            raise ValueError(f"it holds an array of type {str(code)[:40]!r}, not plain numbers or text")
        self.value = np.dtype(code)

    def build(self, state: Any) -> None:
        """Takes the byte order; the rest of what numpy writes follows from the type's code."""
        if type(state) is not tuple or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("it describes an array's type in an unknown way")
        if any(part is not None for part in state[2:5]):
            raise ValueError("it holds an array of records, not of plain numbers or text")
        self.value = self.value.newbyteorder(state[1])


class _Array:
    """An array that is filled in after it was made."""

    def __init__(self, kind: Any, *_: Any) -> None:
        if not isinstance(kind, _Name) or kind.full != "numpy.ndarray":
            raise ValueError("it makes something other than a plain array")
        self.value: np.ndarray | None = None

    def build(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5 or type(state[3]) is not bool:
            raise ValueError("it describes an array in an unknown way")
        _, shape, dtype, by_columns, content = state
        self.value = _array(content, dtype, shape, "F" if by_columns else "C")


def _array(content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    """What `numpy._core.numeric._frombuffer` makes; `K` with `axes` is C order, transposed."""
    content = content.encode("latin1") if type(content) is str else content  # Python 2 wrote bytes as text
    if type(content) not in (bytes, bytearray) or not isinstance(dtype, _Dtype):
        raise ValueError("it holds an array that is not made of bytes")
    if type(shape) is not tuple or not all(type(n) is int for n in shape):
        raise ValueError("it holds an array without a proper shape")
    permuted = type(axes) is tuple and sorted(axes) == list(range(len(shape)))
    if order not in ("C", "F", "K") or (order == "K") != permuted:
        raise ValueError("it holds an array of unknown order")
    made = array_of(content, dtype.value, shape, order)
    return made.transpose(axes) if order == "K" else made


def _encode(text: Any, encoding: Any) -> bytes:
    if type(text) is not str or encoding != "latin1":
        raise ValueError("it encodes text in an unknown way")
    return text.encode("latin1")


_MAKERS: dict[str, Callable[..., Any]] = {
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray.scalar": lambda dtype, content: _array(content, dtype, (), "C")[()],
    "numpy._core.numeric._frombuffer": _array,
    "numpy.dtype": _Dtype,
    "_codecs.encode": _encode,
    "__builtin__.bytes": lambda: b"",
    "builtins.bytes": lambda: b"",
}


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            if type(argument) is int and not -(2**63) <= argument < 2**64:
                raise ValueError("it holds a whole number of more than 64 bits")
            if type(argument) is str and not argument.isascii():
                argument.encode()  # half of a surrogate pair is no text: UnicodeEncodeError, a ValueError
            self.stack.append(argument)
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            raise ValueError(f"it contains {name}, which arrays of numbers do not need")

    def top(self, kind: type | tuple[type, ...] = object) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0) or not isinstance(self.stack[-1], kind):
            raise ValueError("its steps do not fit together")
        return self.stack[-1]

    def pop(self, kind: type = object) -> Any:
        self.top(kind)
        return self.stack.pop()

    def put(self, place: int | None) -> None:
        self.memo[len(self.memo) if place is None else place] = self.top()

    def get(self, place: int) -> None:
        if place not in self.memo:
            raise ValueError("it refers to something that it does not hold")
        self.stack.append(self.memo[place])

    def push_tuple(self, length: int) -> None:
        self.stack.append(tuple(reversed([self.pop() for _ in range(length)])))

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise ValueError("its steps do not fit together")
        place = self.marks.pop()
        values, self.stack[place:] = self.stack[place:], []
        return values

    def pop_step(self, _: Any) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop()

    def protocol(self, number: int) -> None:
        if number > NEWEST_PROTOCOL:
            raise ValueError(f"it is of protocol {number}; 0 to {NEWEST_PROTOCOL} are read")

    def named(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(_Name(module, name))

    def reduce(self, _: Any) -> None:
        arguments, named = self.pop(), self.pop()
        if not isinstance(named, _Name) or named.full not in _MAKERS or type(arguments) is not tuple:
            raise ValueError("it calls something that is not a numpy array")
        try:
            self.stack.append(_MAKERS[named.full](*arguments))
        except TypeError:
            raise ValueError(f"it gives {named.full} {len(arguments)} unsuitable arguments") from None

    def build(self, _: Any) -> None:
        state = self.pop()
        self.top((_Array, _Dtype)).build(state)

    def extend(self, values: list[Any]) -> None:
        self.top(list).extend(values)

    def update(self, values: list[Any]) -> None:
        table = self.top(dict)
        if len(values) % 2 or not all(isinstance(key, _KEYS) for key in values[::2]):
            raise ValueError("it holds a dictionary whose keys are neither text nor numbers")
        if len({*table, *values[::2]}) < len(table) + len(values) // 2:
            raise ValueError("it holds a dictionary with a key twice")
        table.update(zip(values[::2], values[1::2]))

    def update_new(self) -> None:
        values = self.since_mark()
        self.stack.append({})
        self.update(values)


_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": _Machine.protocol,
    "FRAME": lambda machine, _: None,
    "STOP": lambda machine, _: None,
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_TUPLE": lambda machine, _: machine.push_tuple(0),
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": _Machine.pop_step,
    "POP_MARK": lambda machine, _: machine.since_mark(),
    "DUP": lambda machine, _: machine.stack.append(machine.top()),
    "GLOBAL": _Machine.named,
    "STACK_GLOBAL": lambda machine, _: machine.stack.append(_Name(*[machine.pop(str), machine.pop(str)][::-1])),
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "LIST": lambda machine, _: machine.stack.append(machine.since_mark()),
    "DICT": lambda machine, _: machine.update_new(),
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.update([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.update(machine.since_mark()),
}


class _Rest:
    """A stream that says no, rather than asking for memory, when more is to be read than there is."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size = stream, size
        self.readline, self.tell = stream.readline, stream.tell

    def read(self, count: int) -> bytes:
        if count > self._size - self._stream.tell():
            raise ValueError("it ends early")
        return self._stream.read(count)


def read_pickle(stream: BinaryIO, size: int) -> Any:
    """Dictionaries, lists, tuples, text, bytes, numbers and numpy arrays and scalars out of a pickle of `size` bytes.

    Raises ValueError: it holds anything else, or is damaged. No code of it has run.
    """
    machine = _Machine()
    for token, argument, _ in pickletools.genops(cast(IO[bytes], _Rest(stream, size))):
        if token.name == "FRAME" and cast(int, argument) > size - stream.tell():
            raise ValueError("it ends early")
        machine.step(token.name, argument)
    if stream.tell() != size:
        raise ValueError("something follows behind its end, such as a second pickle: write one list")
    value = machine.pop()
    if machine.stack or machine.marks:
        raise ValueError("its steps do not fit together")
    return _finished(value, SHARING * size, 0, {})[0]


def _finished(value: Any, most: int, depth: int, done: dict[int, tuple[Any, int]]) -> tuple[Any, int]:
    """A value with its arrays in place, and its size if everything in it stood there by itself."""
    if depth > DEEPEST:
        raise ValueError(f"it nests more than {DEEPEST} levels, or contains itself")
    if id(value) in done:
        return done[id(value)]
    made, size = value, 1
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("it holds an array without content")
        made, size = value.value, value.value.nbytes
    elif isinstance(value, (_Name, _Dtype)):
        raise ValueError("it holds something other than arrays, numbers and text")
    elif isinstance(value, (list, tuple)):
        parts = [_finished(part, most, depth + 1, done) for part in value]
        made, size = type(value)(part for part, _ in parts), 1 + sum(size for _, size in parts)
    elif isinstance(value, dict):
        pairs = {key: _finished(part, most, depth + 1, done) for key, part in value.items()}
        made, size = {key: part for key, (part, _) in pairs.items()}, 1 + sum(size for _, size in pairs.values())
    elif isinstance(value, (str, bytes, bytearray)):
        made, size = bytes(value) if isinstance(value, bytearray) else value, len(value)
    elif isinstance(value, np.ndarray):
        size = value.nbytes
    if size > most:
        raise ValueError(f"it grows to more than {SHARING} times its size")
    done[id(value)] = made, size
    return made, size
