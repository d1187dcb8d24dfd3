"""Names in code are understood: by imports, by what variables were, and by reading the libraries."""

from textwrap import dedent

import name_finder
import pytest

PAGES = {  # what a documentation describes
    "torch",
    "torch.nn",
    "torch.zeros",
    "torch.manual_seed",
    "torch.no_grad",
    "torch.Tensor.sum",
    "torch.Tensor.view",
    "torch.Tensor.t",
    "torch.Tensor.numpy",
    "torch.Tensor.values",
    "torch.Tensor.indices",
    "torch.Tensor.item",
    "numpy.ndarray.item",
    "torch.nn.Linear",
    "torch.nn.Module.eval",
    "torch.nn.functional.relu",
    "torch.optim.SGD",
    "numpy",
    "numpy.random.default_rng",
    "numpy.ndarray.mean",
    "matplotlib.style.use",
    "pathlib.Path",
    "pathlib.Path.exists",
    "str.split",
    "list.append",
}


def found(code, **kinds):
    """Return, for each piece of code that is understood, what it means and how it is written."""
    code = dedent(code).strip()
    lines = code.split("\n")
    names = {}
    for use in name_finder.uses(code, lambda line, name: kinds.get(name)):
        written = lines[use.line - 1][use.start : use.end]
        names[written] = next((meaning for meaning in use.meanings if meaning in PAGES), None)
    return {written: name for written, name in names.items() if name}


def test_imports():
    """A name is what it was imported as, under whatever name."""
    code = """
        import numpy as np
        from pathlib import Path as File
        from torch import nn
        import torch.nn.functional as F
        np.random.default_rng(0), File("x").exists(), nn.Linear(1, 1), F.relu
        """
    assert found(code) == {
        "numpy": "numpy",
        "np": "numpy",
        "np.random.default_rng": "numpy.random.default_rng",
        "Path": "pathlib.Path",
        "File": "pathlib.Path",
        "exists": "pathlib.Path.exists",
        "torch": "torch",
        "nn": "torch.nn",
        "nn.Linear": "torch.nn.Linear",
        "F.relu": "torch.nn.functional.relu",
    }


def test_a_name_known_elsewhere():
    """A function that another module lends its name to is found where it is described."""
    assert found("import matplotlib.pyplot as plt\nplt.style.use('x')")["plt.style.use"] == "matplotlib.style.use"
    import torch._dynamo  # puts a wrapper in the place of torch.manual_seed

    assert torch.manual_seed is not torch.random.manual_seed
    assert found("from torch.random import manual_seed\nmanual_seed(0)")["manual_seed"] == "torch.manual_seed"


def test_methods_written_in_c_and_chains():
    """The class of an expression is followed through calls, indices and operations."""
    code = """
        import numpy as np
        import torch
        x = torch.zeros(2, 3)
        x.view(6).t()
        (2 * -x[0]).sum()
        "a b".split()
        np.zeros(3).mean()
        """
    assert found(code) == {
        "numpy": "numpy",
        "np": "numpy",
        "mean": "numpy.ndarray.mean",
        "torch": "torch",
        "torch.zeros": "torch.zeros",
        "view": "torch.Tensor.view",
        "t": "torch.Tensor.t",
        "sum": "torch.Tensor.sum",
        "split": "str.split",
    }


def test_what_variables_were():
    """A variable that reading cannot know has the class it had when the code ran, but not inside a function that hides it."""
    assert found("(seen == best).sum()", seen="torch.Tensor") == {"sum": "torch.Tensor.sum"}
    assert found("model.eval()\nmodel(0).sum()", model="torch.nn.modules.linear.Linear") == {
        "eval": "torch.nn.Module.eval",
        "sum": "torch.Tensor.sum",
    }
    assert found("values.mean()", values="numpy.ndarray") == {"mean": "numpy.ndarray.mean"}
    assert not found("def f(values):\n    return values.mean()", values="numpy.ndarray")
    assert not found("lambda values: values.mean()", values="numpy.ndarray")


def test_variables_inside_functions():
    """What is assigned in a function is known from there on; parameters and loop variables are not."""
    code = """
        import torch
        def f(x, y):
            z = torch.zeros(3)
            z.sum()
            for x in y:
                x.view(3)
            z = y
            z.view(3)
        """
    assert found(code) == {"torch": "torch", "torch.zeros": "torch.zeros", "sum": "torch.Tensor.sum"}


def test_classes_of_the_code():
    """A class that the code defines has the methods of the library's class below it, unless it has its own."""
    code = """
        from torch import nn
        class Net(nn.Module):
            def forward(self, x):
                self.eval()
                return x
        net = Net()
        net.train()
        net(3).sum()
        """
    code = code.replace("net.train()", "net.eval()")
    for kinds in ({}, {"net": "__main__.Net"}):
        assert found(code, **kinds) == {"torch": "torch", "nn": "torch.nn", "eval": "torch.nn.Module.eval"}
    assert "eval" not in found(code.replace("def forward(self, x)", "def eval(self)"))


@pytest.mark.parametrize(
    "call", ["x.max(dim=1)", "x.min(0)", "x.sort()", "x.median(0)", "torch.max(x, 1)", "torch.topk(x, 2)", "x.unique()"]
)
@pytest.mark.parametrize("member", ["values", "indices", "sum()"])
def test_what_may_return_several(call, member):
    """The values of a reduction are not those of a sparse tensor."""
    code = f"import torch\nx = torch.zeros(2, 2)\n({call}).{member}"
    assert set(found(code)) <= {"torch", "torch.zeros", "torch.max", "torch.topk"}
    assert not found("result.values", result="torch.return_types.max")


def test_a_variable_that_changes():
    """A variable that becomes something else has the methods of that, and after a loop over it none that are known."""
    code = "import torch\nx = torch.zeros(3)\nx = x.numpy()\nx.item()\nfor x in (1, 2):\n    x.view(3)"
    assert found(code) == {
        "torch": "torch",
        "torch.zeros": "torch.zeros",
        "numpy": "torch.Tensor.numpy",
        "item": "numpy.ndarray.item",
    }


def test_a_method_of_a_binding_without_a_hash():
    """The classes of torch.distributed are bound with pybind, whose methods cannot be hashed."""
    code = "import torch.distributed as dist\n\nstore = dist.HashStore()\nvalue = store.get('key')\nvalue.split()"
    assert any("bytes.split" in use.meanings for use in name_finder.uses(code))


@pytest.mark.parametrize(
    "code", ["unknown.sum()", "from . import x", "x = 3\nx.view", "import nothing_like_it", "'ä'.view"]
)
def test_nothing_is_guessed(code):
    """Code that nobody understands has no meaning."""
    assert not found(code)


def test_columns_count_letters():
    """A use is placed by letters, not by bytes."""
    (use,) = (use for use in name_finder.uses("'äöü'.split()") if "str.split" in use.meanings)
    assert (use.line, use.start, use.end) == (1, 6, 11)
