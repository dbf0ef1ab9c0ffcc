"""What a report says of test masks: Dice, volume, and how far borders are off."""

from primum.report.run import Figures, OfClass
from primum.report.words import between, esc


def mask_rows(test: Figures) -> list[tuple[str, str]]:
    """Name and HTML of each row: Dice, each class, and how distances of borders were measured; none without masks."""
    if test.dice is None:
        return []
    rows = [("Dice", f"<b>{test.dice:.3f}</b> &nbsp; {between(test.dice_low, test.dice_high)}, mean over patients")]
    rows += _class_rows(test)
    if test.surface_unit:
        rows.append(("Border", _how_measured(test)))
    return rows


def looked_mask_rows(figures: Figures, noise: str) -> list[tuple[str, str]]:
    """The same of a look at the hospitals' patients: means over all classes with their intervals, then each class."""
    if figures.dice is None:
        return []
    rows = [("Dice", f"{figures.dice:.3f} &nbsp; {between(figures.dice_low, figures.dice_high)}{noise}")]
    if figures.volume_error is not None:
        low, high = (
            None if one is None else 100 * one for one in (figures.volume_error_low, figures.volume_error_high)
        )
        told = between(low, high, "{:+.1f} %")
        rows.append(("Volume", f"{100 * figures.volume_error:+.1f} % off &nbsp; {told}{noise}"))
    unit = esc(figures.surface_unit)
    for name, value, low, high in (
        ("Border off", figures.surface_distance, figures.surface_distance_low, figures.surface_distance_high),
        ("95 % of it within", figures.hausdorff_95, figures.hausdorff_95_low, figures.hausdorff_95_high),
    ):
        if value is not None:
            rows.append((name, f"{value:.2f} {unit} &nbsp; {between(low, high, '{:.2f}')}{noise}"))
    return rows + (_class_rows(figures) if len(figures.by_class) > 1 else [])


def _class_rows(test: Figures) -> list[tuple[str, str]]:
    rows = []
    for name, figures in test.by_class.items():
        if figures.dice is not None:
            volume = "" if figures.volume_error is None else f", volume {100 * figures.volume_error:+.1f} % off"
            rows.append((esc(name), f"Dice {figures.dice:.3f}{volume}{_surface(figures, test)}"))
    return rows


def _surface(figures: OfClass, test: Figures) -> str:
    told = ""
    if figures.surface_distance is not None and figures.hausdorff_95 is not None:
        unit = esc(test.surface_unit)
        told = f", border {figures.surface_distance:.2f} {unit} off, 95 % within {figures.hausdorff_95:.2f} {unit}"
    if figures.one_sided:
        told += f" ({figures.one_sided} {esc(test.surface_of)} left out: only one of the two masks has it)"
    return told


def _how_measured(test: Figures) -> str:
    if test.surface_unit == "mm":
        how = {"volumes": "in 3D over each volume", "images": "image by image"}.get(test.surface_of, "volumes in 3D")
        return f"in mm, {how}, at the pixels that the model sees; mean surface distance and HD95 both ways, mean over patients"
    return (
        "in pixels that the model sees, image by image: not every test image says its mm; mean surface distance and HD95 "
        "both ways, mean over patients"
    )
