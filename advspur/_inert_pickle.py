"""Read pickles as data: nothing they name is imported, nothing they call is called.

`pickletools` splits the stream into opcodes, and each opcode builds plain values here. A name that
the pickle imports becomes a `Global`, a call becomes a `Call`; both do nothing.
"""

import pickletools
from typing import NamedTuple

from advspur._checks import InputError, first_line, require

MAX_OPCODES = 2_000_000  # a ResNet-50 with its optimizer has about 30,000
_VALUES = set(
    "INT LONG LONG1 LONG4 BININT BININT1 BININT2 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 "
    "BYTEARRAY8".split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_SET": list, "EMPTY_DICT": dict}


class Global(NamedTuple):
    """A name that the pickle imports."""

    module: str
    name: str


class Call:
    """A call or object that the pickle makes."""

    def __init__(self, function, arguments):
        self.function, self.arguments = function, arguments


def read_pickle(stream, *, construct=Call, persistent=None):
    """Read the pickle at the position of `stream`: (value, set of its Globals).

    Sets are read as lists. Entries of dictionaries (and OrderedDicts) are dropped unless their keys
    are strings or numbers: hashing deeply nested tuples can overflow the stack. The stream must not
    allocate more than it holds (mmap and BytesIO do not). InputError if it is not a complete
    pickle. `construct` is (function, arguments) -> value, `persistent` id -> value.
    """
    machine = _Machine(construct, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            machine.spend(1)
            machine.step(opcode.name, argument)
        return machine.stack.pop(), machine.names
    except InputError:
        raise
    except Exception as error:  # a damaged stream raises many kinds
        kind = type(error).__name__
        raise InputError(f"its pickle is damaged: {kind}: {first_line(error)}") from error


class _Machine:
    """The stack machine of a pickle."""

    def __init__(self, construct, persistent):
        self.construct, self.persistent = construct, persistent
        self.stack, self.marks, self.memo, self.names, self.spent = [], [], {}, set(), 0

    def spend(self, steps):
        self.spent += steps
        require(self.spent <= MAX_OPCODES, f"its pickle has more than {MAX_OPCODES:,} opcodes")

    def step(self, name, argument):
        push, pop = self.stack.append, self.stack.pop
        if name in _VALUES:
            small = not isinstance(argument, int) or abs(argument) < 2**64
            require(small, "its pickle has a number of more than 64 bits")
            push(argument)
        elif name in _CONSTANTS:
            push(_CONSTANTS[name])
        elif name in _EMPTY:
            push(_EMPTY[name]())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            push(tuple(self.take(int(name[-1]))))
        elif name == "TUPLE":
            push(tuple(self.since_mark()))
        elif name in ("LIST", "FROZENSET"):
            push(self.since_mark())
        elif name == "DICT":
            push(_fill({}, self.since_mark()))
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            push(self.memo[argument])
        elif name in ("APPENDS", "ADDITEMS", "APPEND"):
            items = self.take(1) if name == "APPEND" else self.since_mark()
            if isinstance(self.stack[-1], list):
                self.stack[-1].extend(items)
            else:  # an unknown class, whose items are dropped
                require(isinstance(self.stack[-1], Call), "its pickle appends outside a list")
        elif name in ("SETITEM", "SETITEMS"):
            items = self.take(2) if name == "SETITEM" else self.since_mark()
            if isinstance(self.stack[-1], dict):
                _fill(self.stack[-1], items)
            else:
                is_call = isinstance(self.stack[-1], Call)
                require(is_call, "its pickle sets items outside a dictionary")
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            parts = argument.split(" ", 1) if name == "GLOBAL" else self.take(2)
            are_texts = all(isinstance(part, str) for part in parts)
            require(are_texts, "its pickle imports something without a name")
            self.names.add(Global(*parts))
            push(Global(*parts))
        elif name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            function, arguments, *_ = self.take(3 if name == "NEWOBJ_EX" else 2)
            push(self.call(function, arguments))
        elif name == "BUILD":
            pop()  # the state of an object, which is not made
        elif name == "BINPERSID":
            require(self.persistent is not None, "its pickle refers to data outside it")
            push(self.persistent(pop()))
        elif name == "POP_MARK" or (name == "POP" and self.marks[-1:] == [len(self.stack)]):
            self.since_mark()
        elif name == "POP":
            pop()
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise InputError(f"its pickle has the opcode {name}, which no checkpoint needs")

    def take(self, count):
        require(len(self.stack) >= count, "its pickle takes more than is on its stack")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def since_mark(self):
        return self.take(len(self.stack) - self.marks.pop())

    def call(self, function, arguments):
        if function == Global("collections", "OrderedDict"):
            pairs = arguments[0] if arguments else []
            are_pairs = isinstance(pairs, (list, tuple)) and all(
                isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs
            )
            require(are_pairs, "its pickle has a dictionary that is not made of pairs")
            self.spend(len(pairs))  # a list can be used repeatedly
            return _fill({}, [x for pair in pairs for x in pair])
        return self.construct(function, arguments)


def _fill(dictionary, items):
    require(len(items) % 2 == 0, "its pickle has a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if key is None or isinstance(key, (str, int, float, bytes, Global)):
            dictionary[key] = value
    return dictionary
