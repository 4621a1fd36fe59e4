"""Metrics: pure functions of the stage x task matrix, one file each (layer L2).

Every metric has the signature ``metric(scores, *, single=None, counts=None, zero_shot=None) -> float``.

* ``scores``: float64 (task, task), percent; ``scores[i, j]`` is the score on the j-th learned task after learning the
  (i+1)-th, NaN where it was not evaluated. In the equations this is ``R[s][t]``, both counted from 1 to T.
* ``single``: float64 (task,), percent: a model trained on that task alone; NaN or None where unknown (``a0[t]``).
* ``counts``: float64 (task,): number of test rows (``n[t]``).
* ``zero_shot``: float64 (task,), percent: the base model before any learning (``z[t]``).

The result is in percent points, and NaN as soon as one entry is missing that the equation needs: nothing is guessed.
Papers that share a name for different equations get different names here. The line "Needs" says what must be known.
"""
