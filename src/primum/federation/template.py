"""The commented study.toml that `primum new study` writes."""

from collections.abc import Sequence
from typing import Final, Literal

Task = Literal["classification", "segmentation"]
_TEMPLATE: Final = """\
# What is learned, from what, under which privacy. Every hospital sees this file before it says yes.

[study]
{about}

[images]
size = 64              # pixels a side
channels = 1           # 1 grey, 3 colour
fit = "squash"         # squash, crop or pad to a square; for masks by networks also windows, or patches in 3D
intensity = "display"  # display: grey levels as a screen shows them; stretch: cut the extremes; clahe: even them out
# spacing = 1.0        # mm of a pixel, for images that say theirs: crop and pad then keep the millimetres; of a voxel
                       # of patches, or [3.0, 1.0, 1.0]: slice, row, column. depth = 16: slices of a patch
# window = "lung"      # of CT: soft-tissue, lung, bone or brain
# axis = "coronal"     # how volumes are cut into slices; "axial" where nothing is said
# context = 1          # so many slices on each side of one are seen with it; then channels = 3

[model]
{model}

[training]
rounds = {rounds}            # each costs privacy
sampling = {sampling}         # share of the patients in a round, drawn at random in each hospital
clipping_norm = {clipping_norm}   # the most one patient can move a sum
# loss = "dice-focal"  # for masks; else "dice-cross-entropy", "dice", "cross-entropy", "focal"
clipping = "{clipping}"      # "automatic": every gradient is brought to the norm; then only the learning rate matters;
                       # "adaptive": the norm follows the clipping_quantile (0.5) of the gradients' norms, by a private count
images_a_patient = 1   # more: the mean gradient of so many images of a drawn patient is clipped once
learning_rate = {learning_rate}
momentum = {momentum}
# optimiser = "adam"   # for networks; learning_rate = 0.003 is a good start
# schedule = "cosine"  # the rate falls to nothing at the last round
average_last = 0.667   # the model is the mean over this last share of the rounds
averaging = "tail"     # "exponential": a running mean that forgets instead
local_steps = 1        # more: each hospital takes so many steps by itself in a round; fewer rounds on a slow link, more noise
# local_learning_rate = 4.0  # with local_steps above 1: the rate of those steps. The server then adds to the weights
#                      # learning_rate * velocity, velocity = momentum * velocity + mean difference of the hospitals' weights:
#                      # FedAvg is learning_rate = 1.0 and momentum = 0.0
# proximal = 0.01      # pulls local steps towards the global weights (FedProx)

# Pictures changed at random each time they are drawn; for networks only, which learn from pixels.
# [augmentation]
# rotation = 10        # degrees; scale, shear, shift = 0.1 (of the side), flip = "horizontal", elastic, grid, blur,
#                      # gamma, contrast, noise, cutout; share = 0.5 of the pictures get each
# copies = 1           # more: each drawn picture is seen in so many ways, whose mean gradient is clipped once
# mixup = 0.2          # for classes, without privacy only: pictures and labels of two patients are mixed

[aggregation]
weighting = "equal"    # "images", with local_steps above 1 and without privacy: by number of images. Two rounds whose sets
                       # of hospitals differ by one then reveal its number
# bits = 10            # with privacy and local_steps = 1: so many bits a coordinate; fewer bytes, a little more noise

# What the hospitals' patients are like, found before the first round by one secure sum (a private one is one look more).
# [statistics]
# class_weights = "balanced"  # rare classes count more; "root": half as much
# pixels = "hospitals"        # for networks: pictures are standardised by the mean and deviation of all hospitals' pixels

# Without privacy: hold patients back, for exact figures over all hospitals.
# [evaluation]
# share = 0.15
# at_specificity = [0.9]     # of two classes: how many of the ill are found where so many of the well are called well
# measures = ["dice"]        # of masks; also "volume_error", "surface_distance", "hausdorff_95"

# Leave the whole section out for a study without privacy (hospitals must allow it in their policy).
[privacy]
unit = "patient"       # or "image"
epsilon = 3.0
delta = 1e-5           # at most 1 / (100 patients)
patients = 379         # how many training patients there are in all hospitals; if it is wrong, only the step size is
evaluation_share = 0.15  # of each hospital's patients, set aside for ever
looks = 1              # how often they are looked at, at the end

[hospitals]
members = [{members}]
colluding = 1          # so many hospitals may work together with the coordinator
may_vanish = 0         # so many may miss a round; 0 with three hospitals, 1 with four to seven

[deadlines]
consent = 3600.0       # seconds for the hospitals to say yes
stage = 60.0           # seconds for one stage of a round
reply_grid = 0.05      # answers are sent at multiples of this, so that their time says nothing
"""


_ABOUT: Final[dict[Task, str]] = {
    "classification": """\
name = "pneumonia"
purpose = "Find pneumonia on chest X-rays of children."   # hospitals read this
task = "classification"               # or "segmentation": a mask for each image
labels = "one"                        # "several" classes an image, or "ordered" ones: docs/how-to/labels.md
classes = ["NORMAL", "PNEUMONIA"]     # the hospitals' folders have these names""",
    "segmentation": """\
name = "lungs"
purpose = "Draw the lungs on chest X-rays."   # hospitals read this
task = "segmentation"                 # or "classification": a class for each image
classes = ["background", "lung"]      # what 0, 1, ... mean in the hospitals' masks""",
}
_MODEL: Final[dict[Task, str]] = {
    "classification": """\
kind = "scattering-linear"   # a fixed wavelet transform and one learned layer: good at a small epsilon
                       # "multiscale-linear": several at once, better at every epsilon, three times the bytes
                       # (scales = [1, 2, 3]; views = "zoom", "mirror" or "shift"). "random-linear": filters, patch,
                       # pools; "backbone-linear": backbone, weights. docs/how-to/small-epsilon.md: when which helps.
                       # "small-network", "residual-network", "vgg", "squeeze-network", "mobile-network" (widths)
                       # learn all by themselves, from many images: docs/reference/studies.md
scales = 3                   # J; features shrink by 4 with each
angles = 8""",
    "segmentation": """\
kind = "pixel-linear"  # fixed features of each pixel and one learned layer: good at a small epsilon
                       # "u-net" (widths = [16, 32, 64]), "mo-net" and "seg-resnet" learn all by themselves, from
                       # many images and without [privacy]
scales = 4
places = 8             # a grid of so many by so many places, each with its own threshold""",
}


_TRAINING: Final[dict[Task, dict[str, float | str]]] = {
    "classification": {
        "rounds": 40,
        "sampling": 0.5,
        "clipping_norm": 0.25,
        "clipping": "flat",
        "learning_rate": 4.0,
    },
    "segmentation": {
        "rounds": 60,
        "sampling": 1.0,
        "clipping_norm": 0.15,
        "clipping": "automatic",
        "learning_rate": 5.0,
    },
}


def study_template(
    members: Sequence[str],
    learning_rate: float | None = None,
    momentum: float = 0.9,
    task: Task = "classification",
) -> str:
    """A study file with comments, these hospitals filled in."""
    names = "".join(f'\n    "{member}",' for member in members)
    filled = names + "\n" if members else ""
    training = _TRAINING[task] if learning_rate is None else _TRAINING[task] | {"learning_rate": learning_rate}
    return _TEMPLATE.format(about=_ABOUT[task], model=_MODEL[task], members=filled, momentum=momentum, **training)
