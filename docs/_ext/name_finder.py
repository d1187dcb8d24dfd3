"""Say what each name in a piece of Python code means: the module, function, class or method of which library.

Three sources are asked in turn. The imports say what ``np.random`` is. What a variable was when the code ran says whose method
follows it; the caller passes that. For all else jedi reads the code, the libraries and their stubs without running anything.
A name that none of them knows has no meaning here: no link is better than a wrong one.
"""

import ast
import importlib
import inspect
import logging
import zlib
from collections import deque
from dataclasses import dataclass
from functools import cache

import jedi
from jedi.api.environment import InterpreterEnvironment

ARRAYS = ("torch.Tensor", "numpy.ndarray")  # an operation with one of these has one of these as its result
MODULE = "torch.nn.modules.module.Module"


@dataclass(frozen=True)
class Use:
    """A name in the code: where it is written, and what it may mean, the likeliest first. A dotted name contains others."""

    line: int  # from 1
    start: int
    end: int
    meanings: tuple[str, ...]


def uses(code, kinds=None):
    """Return every use of a library's name in `code`.

    `kinds` maps a line and a module-level variable to the full name of its class: ``kinds(line, name) -> str | None``.
    """
    return _Finder(code, kinds or (lambda line, name: None)).found


@cache
def locate(full):
    """Return the object with this full name, or None."""
    parts = full.split(".")
    for cut in range(len(parts), 0, -1) if all(parts) else ():
        try:
            logging.disable(logging.WARNING)  # what a module has to say when it is first imported
            found = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        finally:
            logging.disable(logging.NOTSET)
        for part in parts[cut:]:
            found = inspect.getattr_static(found, part, None)
        return found
    return None


@cache
def spellings(full):
    """Return the names of one object, longest first: ``torch.nn.modules.linear.Linear`` is ``torch.nn.Linear`` too."""
    module, _, name = full.rpartition(".")
    parts = module.split(".") if module else []
    shorter = [".".join([*parts[:cut], name]) for cut in range(len(parts) - 1, 0, -1)]
    here = locate(full)
    found = [
        full.removeprefix("builtins."),
        *(spelled for spelled in shorter if here is not None and _same(locate(spelled), here)),
    ]
    own = f"{getattr(here, '__module__', None)}.{getattr(here, '__qualname__', None)}"
    if own != full and here is not None and _same(locate(own), here):  # known under a name that another module gave it
        found += spellings(own)
    return tuple(found)


def _same(one, other):
    """Say whether two objects are one: torch's compiler, once imported, puts wrappers in the place of some functions."""
    names = [(getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)) for thing in (one, other)]
    return one is other or (None not in names[0] and names[0] == names[1])


def members(owner, name):
    """Yield what ``name`` on an object of class `owner` may be called: of the class, its bases, its subclasses."""
    waiting, seen = deque(owner.__mro__[:-1]), set()
    while waiting:
        cls = waiting.popleft()
        if cls not in seen:
            seen.add(cls)
            yield from (f"{spelled}.{name}" for spelled in spellings(f"{cls.__module__}.{cls.__qualname__}"))
            # A base without a page of its own, such as torch._C.TensorBase: its members are described with a subclass.
            waiting += type.__subclasses__(cls) if cls.__qualname__.startswith("_") or "._" in cls.__module__ else ()


def read(code):
    """Let jedi read a program. Under one path it would keep one program only, and forget the other while it is in use."""
    return jedi.Script(code, path=f"{zlib.crc32(code.encode())}.py", environment=InterpreterEnvironment())


def one_class(names):
    """Return the one class among these names, or None: several answers are none."""
    found = {cls for name in names if isinstance(cls := locate(name), type)}
    return found.pop() if len(found) == 1 else None


def results(script, line, column):
    """Return jedi's full names for what calling the function at a place returns."""
    try:
        return [
            result.full_name for name in script.infer(line, column) for result in name.execute() if result.full_name
        ]
    except Exception:  # jedi reads whatever the libraries contain, and some of it trips it
        return []


@cache
def result_of(owner, method):
    """Return the class of what a method returns, or None."""
    code = f"import {owner.partition('.')[0]}\nvalue: {owner}\nvalue.{method}"
    return one_class(results(read(code), 3, len(f"value.{method}") - 1))


class _Finder(ast.NodeVisitor):
    def __init__(self, code, kinds):
        self.lines = code.encode().split(b"\n")  # the columns of ast count bytes
        self.kinds, self.imports, self.local, self.found = kinds, {}, [], []
        self.script = read(code)
        tree = ast.parse(code)
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)) and not getattr(node, "level", 0):
                self._remember(node)
        self.visit(tree)

    def _remember(self, node):
        home = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
        for alias in node.names:
            bound = alias.asname or (alias.name if home else alias.name.partition(".")[0])
            self.imports[bound] = home + (alias.name if home or alias.asname else bound)

    def _column(self, line, offset):
        return len(self.lines[line - 1][:offset].decode())

    def _place(self, node):
        """Return where the last letter of an expression stands."""
        return node.end_lineno, self._column(node.end_lineno, node.end_col_offset) - 1

    def _add(self, line, start, end, meanings):
        if meanings := tuple(dict.fromkeys(meanings)):
            self.found.append(Use(line, self._column(line, start), self._column(line, end), meanings))

    def visit_Import(self, node):
        """Link each module that is imported, and what is imported from it."""
        home = ""
        if getattr(node, "level", 0):  # a relative import says nothing without its package
            return
        if isinstance(node, ast.ImportFrom):
            home, start = f"{node.module}.", node.col_offset + len("from ")
            self._add(node.lineno, start, start + len(node.module), spellings(node.module))
        for alias in node.names:
            self._add(alias.lineno, alias.col_offset, alias.col_offset + len(alias.name), spellings(home + alias.name))

    visit_ImportFrom = visit_Import

    def _scope(self, node):
        arguments = getattr(node, "args", None)
        names = (
            {argument.arg for argument in ast.walk(arguments) if isinstance(argument, ast.arg)} if arguments else set()
        )
        names |= {
            inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)
        }
        self.local.append(names)
        self.generic_visit(node)
        self.local.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _scope
    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _scope

    def visit_Name(self, node):
        """Link what was imported under a name; a variable is no link."""
        if self._imported(node):
            self._add(node.lineno, node.col_offset, node.end_col_offset, spellings(self.imports[node.id]))

    def visit_Attribute(self, node):
        """Link a dotted name as a whole if the imports tell it, otherwise its last part by the class of what is before it."""
        full = self._dotted(node)
        if full and locate(full) is not None:
            self._add(node.lineno, node.col_offset, node.end_col_offset, spellings(full))
        else:
            start = node.end_col_offset - len(node.attr.encode())
            self._add(node.end_lineno, start, node.end_col_offset, self._member(node))
        self.visit(node.value)

    def _imported(self, node):
        return (
            isinstance(node, ast.Name) and node.id in self.imports and not any(node.id in names for names in self.local)
        )

    def _dotted(self, node):
        if self._imported(node):
            return self.imports[node.id]
        before = self._dotted(node.value) if isinstance(node, ast.Attribute) else None
        return before and f"{before}.{node.attr}"

    def _member(self, node):
        """Yield what an attribute may mean."""
        known = self._kind(node.value) if not isinstance(node.value, ast.Call) else None
        if known:
            yield from members(known, node.attr)
            return
        told = False
        for name in self._ask("goto", node):
            parts = [part for part in name.split(".") if not (part.startswith("__") and part.endswith("__"))]
            owner = locate(".".join(parts[:-1]))
            told = True
            if isinstance(owner, type):
                yield from members(owner, node.attr)
            else:
                yield from spellings(".".join(parts))
        known = None if told else self._kind(node.value)
        if known:
            yield from members(known, node.attr)

    def _ask(self, question, node):
        """Return jedi's full names for the last name of an expression."""
        try:
            answers = getattr(self.script, question)(*self._place(node))
            return [answer.full_name for answer in answers if answer.full_name and "." in answer.full_name]
        except Exception:  # as above
            return []

    def _kind(self, node):
        """Return the class of an expression's value, or None."""
        if isinstance(node, ast.Name):
            return self._variable(node)
        if isinstance(node, (ast.BinOp, ast.UnaryOp, ast.Compare, ast.Subscript)):
            return next(
                (kind for part in self._operands(node) if (kind := self._kind(part)) and _is(kind, ARRAYS)), None
            )
        if isinstance(node, ast.Attribute):
            return one_class(self._ask("infer", node))
        if isinstance(node, ast.Call):
            caller = self._kind(node.func)
            if caller and _is(caller, (MODULE,)):  # almost all modules answer with a tensor
                return locate(ARRAYS[0])
            full = self._dotted(node.func) or ""
            if full.startswith("numpy.") and not isinstance(locate(full), type):
                return locate(
                    ARRAYS[1]
                )  # almost all functions of numpy answer with an array; jedi is lost in its stubs
            owner = self._kind(node.func.value) if isinstance(node.func, ast.Attribute) else None
            if owner and _is(owner, ARRAYS):
                return result_of(f"{owner.__module__}.{owner.__qualname__}", node.func.attr)
            return one_class(results(self.script, *self._place(node.func)))
        return None

    def _variable(self, node):
        hidden = any(node.id in names for names in self.local)
        told = None if hidden else self.kinds(node.lineno, node.id)
        return locate(told) if told else one_class(self._ask("infer", node))

    @staticmethod
    def _operands(node):
        if isinstance(node, ast.Compare):
            return [node.left, *node.comparators]
        return [part for part in (getattr(node, name, None) for name in ("operand", "value", "left", "right")) if part]


def _is(kind, names):
    return any(f"{base.__module__}.{base.__qualname__}" in names for base in kind.__mro__)
