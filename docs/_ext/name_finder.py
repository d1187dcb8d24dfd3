"""Say what each name in a piece of Python code means: the module, function, class or method of which library.

Three sources are asked in turn. The imports say what ``np.random`` is. What a variable was when the code ran says whose method
follows it; the caller passes that. For all else the code is read: what is assigned, and what functions say they return, in an
annotation or a docstring. A name that none of them knows has no meaning here: no link is better than a wrong one.
"""

import ast
import builtins
import importlib
import inspect
import logging
import re
import types
import typing
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache

TENSOR, ARRAY = "torch.Tensor", "numpy.ndarray"
SAME = ("T", "mT", "H", "mH", "grad", "data", "real", "imag")  # attributes of an array that are arrays


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
        above = importlib.import_module(".".join(parts[: cut - 1])) if cut == len(parts) > 1 else None
        return inspect.getattr_static(
            above, parts[-1], found
        )  # torch.nn.utils.weight_norm is a function, and a module too
    return inspect.getattr_static(builtins, full, None) if len(parts) == 1 else None


@cache
def spellings(full):
    """Return the names of one object, longest first: ``torch.nn.modules.linear.Linear`` is ``torch.nn.Linear`` too."""
    full = full.removeprefix("builtins.")
    *module, name = full.split(".")
    here = locate(full)
    if inspect.ismodule(here):
        return (full,)
    shorter = [".".join([*module[:cut], name]) for cut in range(len(module) - 1, 0, -1)]
    found = [full, *(spelled for spelled in shorter if here is not None and _same(locate(spelled), here))]
    own = full_name(here)
    if own not in ("", full) and _same(locate(own), here):  # known under a name that another module gave it
        found += spellings(own)
    return tuple(dict.fromkeys(found))


def full_name(thing):
    """Return the name under which something was defined; empty when it does not tell."""
    try:
        return f"{thing.__module__}.{thing.__qualname__}".removeprefix("builtins.")
    except Exception:  # some objects look at the hardware when they are asked for an attribute
        return ""


def _same(one, other):
    """Say whether two objects are one: torch's compiler, once imported, puts wrappers in the place of some functions."""
    return one is other or full_name(one) == full_name(other) != ""


def members(cls, name):
    """Yield what ``name`` on a value of a class may be called, in the class and in its bases."""
    for base in cls.__mro__[:-1] if cls else ():
        yield from (f"{spelled}.{name}" for spelled in spellings(full_name(base)))


def is_a(cls, name):
    """Say whether a class is one of the libraries', or derives from it."""
    return cls is not None and isinstance(locate(name), type) and issubclass(cls, locate(name))


def array(*classes):
    """Return the class of what an operation with values of these classes gives: an array when one of them is one."""
    return next((locate(name) for name in (TENSOR, ARRAY) if any(is_a(cls, name) for cls in classes)), None)


def annotated(annotation, module, owner=None):
    """Return the class that an annotation names; what it says of None is left out, and "itself" is the owner."""
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, {**vars(typing), **vars(importlib.import_module(module))})
        except Exception:  # a name that only type checkers import
            return None
    if annotation is typing.Self or isinstance(annotation, typing.TypeVar):
        return owner
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        parts = {annotated(part, module, owner) for part in typing.get_args(annotation) if part is not types.NoneType}
        return parts.pop() if len(parts) == 1 else None
    cls = origin or annotation
    return cls if isinstance(cls, type) and cls not in (object, types.NoneType) else None


def returned(function, owner=None):
    """Return the class of what calling a function, method or class gives, or None."""
    function = getattr(function, "__func__", function)
    return told_of(function, owner) if isinstance(function, Hashable) else None  # pybind's methods are not


@cache
def told_of(function, owner):
    """Return what a class, a signature or a docstring tells of the result."""
    if isinstance(function, type):
        return function
    if not inspect.isroutine(function):
        return None
    inner = inspect.unwrap(function)
    if inner is not function and inspect.isgeneratorfunction(inner):  # a context manager, whatever it yields
        return None
    told = getattr(function, "__annotations__", {})
    return annotated(told["return"], function.__module__, owner) if "return" in told else documented(function)


def documented(function):
    """Return the class that a docstring says a function returns, as those of torch and NumPy do, or None."""
    text, name = function.__doc__ or "", function.__name__
    home = getattr(function, "__module__", None) or full_name(getattr(function, "__objclass__", None))
    if home.startswith("numpy"):
        said = re.findall(r"Returns\n-+\n(?:\w+ : )?(\w+)\n", text)
        names = {{"ndarray": ARRAY, "Generator": "numpy.random.Generator"}.get(name) for name in said}
    elif home.startswith("torch") and locate(f"torch.return_types.{name}") is None:  # not those that may return several
        said = re.findall(r"->\s*([^\n#]+?):?\s*(?:#.*)?$", text, flags=re.M) or re.findall(
            "Returns a new (Tensor)", text
        )
        names = {TENSOR if re.fullmatch(r"(torch\.)?\w*Tensor", name) else name for name in said}
    else:
        return None
    found = locate(names.pop() or "") if len(names) == 1 else None
    return found if isinstance(found, type) else None


@cache
def attribute(cls, name):
    """Return the class of an attribute of a class's values, or None."""
    if name in SAME and array(cls):
        return array(cls)
    for base in cls.__mro__:
        if name in (told := inspect.get_annotations(base)):
            return annotated(told[name], base.__module__, cls)
    found = inspect.getattr_static(cls, name, None)
    return returned(found.fget, cls) if isinstance(found, property) else None


class _Finder(ast.NodeVisitor):
    def __init__(self, code, told):
        self.lines = code.encode().split(b"\n")  # the columns of ast count bytes
        self.told, self.imports, self.found = told, {}, []
        self.scopes = [{}]  # the classes of variables, from the module's to the innermost function's; None is not known
        self.classes = {}  # what this code defines: the library's class that each derives from, and what it has of its own
        self.here = None  # the name of the class whose body is read
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

    def _add(self, line, start, end, meanings):
        start, end = (len(self.lines[line - 1][:offset].decode()) for offset in (start, end))
        if meanings := tuple(dict.fromkeys(meanings)):
            self.found.append(Use(line, start, end, meanings))

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

    def _inside(self, node):
        """Read what has variables of its own; the first argument of a method is of the class."""
        given = [part.arg for part in ast.walk(getattr(node, "args", node)) if isinstance(part, ast.arg)]
        stored = [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]
        self.scopes.append(dict.fromkeys(given + stored))
        here, self.here = self.here, None
        if here and given:
            self.scopes[-1][given[0]] = here
        self.generic_visit(node)
        self.here = here
        self.scopes.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _inside
    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _inside

    def visit_ClassDef(self, node):
        """Read a class; what it does not define itself is of the class that it derives from."""
        own = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
        own |= {
            part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store)
        }
        base = locate(self._dotted(node.bases[0]) or "") if node.bases else None
        self.classes[node.name] = base if isinstance(base, type) else None, own
        self.here, outside = node.name, self.here
        self.generic_visit(node)
        self.here = outside

    def visit_Assign(self, node):
        """Note what the variables are from here on."""
        self.visit(node.value)
        kind = self._kind(node.value)
        for target in node.targets:
            self.visit(target)
            if isinstance(target, ast.Name):
                self.scopes[-1][target.id] = kind

    def visit_AugAssign(self, node):
        """Leave a variable what it was."""
        for part in (node.value, node.target)[: 1 if isinstance(node.target, ast.Name) else 2]:
            self.visit(part)

    def visit_Name(self, node):
        """Link what was imported under a name; a variable is no link."""
        if isinstance(node.ctx, ast.Store):
            self.scopes[-1][node.id] = None
        elif self._imported(node):
            self._add(node.lineno, node.col_offset, node.end_col_offset, spellings(self.imports[node.id]))

    def visit_Attribute(self, node):
        """Link a dotted name as a whole if the imports tell it, otherwise its last part by the class of what is before it."""
        full = self._dotted(node)
        if full and locate(full) is not None:
            self._add(node.lineno, node.col_offset, node.end_col_offset, spellings(full))
        else:
            start = node.end_col_offset - len(node.attr.encode())
            cls = self._class(self._kind(node.value), node.attr)
            self._add(node.end_lineno, start, node.end_col_offset, members(cls, node.attr))
        self.visit(node.value)

    def _imported(self, node):
        return isinstance(node, ast.Name) and node.id in self.imports and self._scope(node.id) is None

    def _dotted(self, node):
        if self._imported(node):
            return self.imports[node.id]
        before = self._dotted(node.value) if isinstance(node, ast.Attribute) else None
        return before and f"{before}.{node.attr}"

    def _scope(self, name):
        """Return the innermost function's variables that hold a name, or None when it is the module's."""
        return next((scope for scope in self.scopes[:0:-1] if name in scope), None)

    def _class(self, kind, name):
        """Return a library's class that has a member of what is known of a value: a class, or the name of one of this code."""
        base, own = self.classes.get(kind, (None, ())) if isinstance(kind, str) else (kind, ())
        return base if name not in own else None

    def _kind(self, node):
        """Return what is known of an expression's value: its class, or the name of a class that this code defines, or None."""
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | bytes() as value):
                return type(value)
            case ast.JoinedStr():
                return str
            case ast.Dict() | ast.DictComp():
                return dict
            case ast.List() | ast.ListComp():
                return list
            case ast.Name():
                return self._variable(node)
            case ast.Attribute():
                if full := self._dotted(node):
                    return _class_of(locate(full))
                cls = self._class(self._kind(node.value), node.attr)
                return attribute(cls, node.attr) if cls else None
            case ast.BinOp():
                return self._array(node.left, node.right)
            case ast.Compare() if not any(isinstance(op, (ast.Is, ast.IsNot, ast.In, ast.NotIn)) for op in node.ops):
                return self._array(node.left, *node.comparators)
            case ast.UnaryOp() if not isinstance(node.op, ast.Not):
                return self._array(node.operand)
            case ast.Subscript():
                return self._array(node.value)
            case ast.Call():
                return self._result(node)
        return None

    def _array(self, *nodes):
        return array(*(self._class(self._kind(node), None) for node in nodes))

    def _variable(self, node):
        scope = self._scope(node.id)
        if scope is not None:
            return scope[node.id]
        if told := self.told(node.lineno, node.id):
            own = told.removeprefix("__main__.")
            found = own if own in self.classes else locate(told)
            return found if isinstance(found, (type, str)) else None
        return self.scopes[0].get(node.id)

    def _result(self, node):
        """Return what is known of what a call gives."""
        function = node.func
        if full := self._dotted(function):
            return returned(locate(full))
        if isinstance(function, ast.Name) and self._scope(function.id) is None:
            if function.id in self.classes:
                return function.id
            if isinstance(thing := getattr(builtins, function.id, None), type) and thing is not super:
                return thing
        if isinstance(function, ast.Attribute):
            cls = self._class(self._kind(function.value), function.attr)
            if method := inspect.getattr_static(cls, function.attr, None):
                return returned(method, cls)
        cls = self._class(self._kind(function), "forward")
        if is_a(cls, "torch.nn.Sequential"):  # says nothing of its result
            return locate(TENSOR)
        return returned(cls.forward) if is_a(cls, "torch.nn.Module") else None


def _class_of(thing):
    """Return the class of an object that a library holds, such as ``sys.stdout``."""
    known = thing is None or callable(thing) or isinstance(thing, types.ModuleType) or hasattr(thing, "__get__")
    return None if known else type(thing)
