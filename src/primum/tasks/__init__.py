"""What is learned. From a study to its plan, from images to a step, from scores to figures.

| file | what |
|---|---|
| plan.py | everything that follows from a study: dimensions, noise, ring, costs; the same at every hospital |
| update.py | what a hospital sends in a round: a sum of gradients, or the difference that local steps made |
| narrow.py | a private sum in exactly so many bits |
| classification.py, several.py, ordered.py, segmentation.py | a task: its loss, and how good a model is at it |
| learner.py | one hospital's part in a round: from a sample to integers |
| look.py | a private look at the evaluation patients |
| simulation.py | a study in one process |
| training.py | the public side: optimiser, averaging |
| metrics.py | AUC and accuracy with their intervals |
"""
