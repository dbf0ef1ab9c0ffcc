"""What a report says of test masks: Dice, volume, and how far borders are off."""

from primum.report.run import Figures, OfClass
from primum.report.words import DASH, between, esc, in_brackets, table


def mask_rows(test: Figures) -> list[tuple[str, str]]:
    """Name and HTML of each row: Dice, and how distances of borders were measured; none without masks."""
    if test.dice is None:
        return []
    rows = [("Dice", f"<b>{test.dice:.3f}</b> &nbsp; {between(test.dice_low, test.dice_high)}, mean over patients")]
    if test.surface_unit and any(one.surface_distance is not None for one in test.by_class.values()):
        rows.append(("Border", _how_measured(test)))
    return rows


def looked_mask_rows(figures: Figures, noise: str) -> list[tuple[str, str]]:
    """The same of a look at the hospitals' patients: means over all classes with their intervals."""
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
    return rows


def mask_table(figures: Figures) -> str:
    """A table of what is known of the masks of each class, with intervals; empty without masks."""
    classes = {name: one for name, one in figures.by_class.items() if one.dice is not None}
    if not classes:
        return ""
    unit = esc(figures.surface_unit)
    columns: list[tuple[str, str, str, float]] = [
        ("Dice", "dice", "{:.3f}", 1),
        ("Volume off, %", "volume_error", "{:+.1f}", 100),
        (f"Border off, {unit}", "surface_distance", "{:.2f}", 1),
        (f"95 % of it within, {unit}", "hausdorff_95", "{:.2f}", 1),
    ]
    known = [column for column in columns if any(getattr(one, column[1]) is not None for one in classes.values())]
    rows = [[esc(name), *(_cell(one, *column[1:]) for column in known)] for name, one in classes.items()]
    head, notes = ["Class", *(column[0] for column in known)], "In brackets: 95 % intervals, over patients."
    if any(one.one_sided for one in classes.values()):
        what = esc(figures.surface_of)
        head.append(f"{what.capitalize()} left out")
        rows = [[*row, str(one.one_sided)] for row, one in zip(rows, classes.values(), strict=True)]
        notes += f" Of {what} left out only one of the two masks has the class: no distance is defined."
    return table(head, rows, "stack") + f"<p>{notes}</p>"


def _cell(one: OfClass, name: str, style: str, factor: float) -> str:
    value, low, high = (
        None if number is None else factor * number
        for number in (getattr(one, name + end) for end in ("", "_low", "_high"))
    )
    return DASH if value is None else f"<b>{style.format(value)}</b>{in_brackets(low, high, style)}"


def _how_measured(test: Figures) -> str:
    if test.surface_unit == "mm":
        how = {"volumes": "in 3D over each volume", "images": "image by image"}.get(test.surface_of, "volumes in 3D")
        return f"in mm, {how}, at the pixels that the model sees; mean surface distance and HD95 both ways, mean over patients"
    return (
        "in pixels that the model sees, image by image: not every test image says its mm; mean surface distance and HD95 "
        "both ways, mean over patients"
    )
