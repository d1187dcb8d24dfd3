"""
A short title
=============

Say in one sentence what the reader will be able to do.

.. lesson::
   :needs:
   :data: none
"""

# %%
# A question that a reader would ask
# ----------------------------------
#
# Two or three sentences. Then the shortest code that shows something surprising.

import torch

numbers = torch.arange(6)
print(numbers.view(2, 3))
assert numbers.view(2, 3).shape == (2, 3)

# %%
# What does it look like?
# -----------------------

import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, ax = plt.subplots()
ax.plot(numbers, numbers**2, marker="o")
ax.set(xlabel="number", ylabel="square")

# %%
# .. caption:: What to see, in one or two sentences.
#    :alt: What the figure shows to somebody who cannot see it.
#
# By hand, then by the library: both agree.

by_hand = sum(number.item() for number in numbers)
assert by_hand == numbers.sum()
torch.testing.assert_close(torch.tensor(by_hand), numbers.sum())

# %%
# Change something
# ----------------
#
# * Replace one thing. What should happen?
# * Replace another. Predict the message before you run it.
# * Make it larger. What breaks first?
#
# Exercises
# ---------
#
# 1. Something to work out.
# 2. Something to find.
#
# .. dropdown:: Answers
#
#    1. Its answer.
#    2. Its answer.
