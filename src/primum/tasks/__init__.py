"""What is learned. From a study to its plan, from images to a step, from scores to figures.

| file | what |
|---|---|
| plan.py | everything that follows from a study: dimensions, noise, ring, costs; the same at every hospital |
| classification.py | one hospital's step and one hospital's evaluation |
| training.py | the public side: optimiser, averaging |
| metrics.py | AUC and accuracy with their intervals |
"""
