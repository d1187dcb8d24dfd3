"""
TODO: a short title
===================

TODO: say in one sentence what the reader will be able to do.

.. lesson::
   :needs:
   :data: none
   :keywords: TODO: synonyms, American spellings, texts of error messages
   :thumbnail: 1
"""

# %%
# TODO: a question that a reader would ask
# ----------------------------------------
#
# TODO: a wish of the reader, not a property of an API. Then the shortest code that shows something surprising.

import torch

numbers = torch.arange(6)
table = numbers.view(2, 3)
print(table)

assert table.shape == (2, 3)

# %%
# TODO: what does it look like?
# -----------------------------
#
# TODO: one sentence on what is drawn. Code that only draws is folded.

# fold: TODO: what it draws
import matplotlib.pyplot as plt

fig, ax = plt.subplots()
ax.plot(numbers, numbers**2, marker="o")
ax.set(xlabel="number", ylabel="square")

# %%
# .. caption:: TODO: what to see, in one or two sentences.
#    :alt: TODO: what the figure shows to somebody who cannot see it.
#
# TODO: by hand first, then by the library; assert that both agree.

by_hand = sum(number.item() for number in numbers)
print(by_hand, numbers.sum())

assert by_hand == numbers.sum()

# %%
# TODO: what goes wrong?
# ----------------------
#
# TODO: the misconception: what you expect, what happens, why, the fix.

table[0, 0] = 100
print(numbers)

assert numbers[0] == 100

# %%
# Take this with you
# ------------------
#
# TODO: one to three sentences. The cell below stands on the cheat sheet: at most 12 lines of plain PyTorch.

rows = numbers.view(-1, 3)

# %%
# Change something
# ----------------
#
# * TODO: replace one thing. What should happen?
# * TODO: replace another. Predict the message before you run it.
# * TODO: make it larger. What breaks first?
#
# .. dropdown:: What happens
#
#    * TODO: what happens; try it.
#    * TODO: the message.
#    * TODO: what breaks, and why.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: TODO: write something
#
#    TODO: say what the function gets and returns.


def last_column(table):
    ### BEGIN SOLUTION
    return table[:, -1]
    ### END SOLUTION


expect(lambda: last_column(torch.eye(3)), torch.tensor([0.0, 0.0, 1.0]))

# %%
# .. exercise:: TODO: predict something
#    :kind: predict
#
#    TODO: ask before the reader runs it. What shape has ``torch.ones(3, 1) + torch.ones(4)``?

### BEGIN SOLUTION
guess = (3, 4)
### END SOLUTION

expect(guess, (torch.ones(3, 1) + torch.ones(4)).shape)
