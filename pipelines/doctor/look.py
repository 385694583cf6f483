"""Examines one pair: what `deeplab prepare` would reject, and what it would accept but should not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from pipelines.doctor import depth, measures
from pipelines.doctor.plan import ALIGNED, DECODED, Subject
from pipelines.doctor.reading import are_grey_ids, are_numbers
from pipelines.doctor.tally import REACH, Alignment, DoctorTally, Seen, of_colors, seen_of, with_print
from pipelines.doctor.verdict import Example
from pipelines.inputs.evidence import uses_of_colors
from pipelines.inputs.tiling import LARGE, TILED
from trainer import storage
from trainer.formats import codings, images, label_images
from trainer.formats.images import Header, ImageError
from trainer.formats.label_images import Label
from trainer.formats.labels import (
    LabelError,
    Palette,
    color_meanings,
    id_table,
    pack,
    unknown_mark,
    unpack,
)
from trainer.formats.options import MAX_PIXELS
from trainer.formats.runs import pixels_of_ids


def look(
    subject: Subject,
    palette: Palette | None = None,
    coding: str = "auto",
    max_pixels: int = MAX_PIXELS,
    read: Callable[[str], bytes] = storage.read,
) -> DoctorTally:
    """Examines a pair as closely as the plan demands.

    Args:
      subject: the pair.
      palette: the palette of the labels; None if it is not known, in which case they are only decoded.
      coding: one of `trainer.formats.options.CODINGS`.
      max_pixels: bound on the pixels of an image or label.
      read: reads a file, like `storage.read`.

    Returns:
      Its tally, with at most one fault for which prepare would reject the pair:

      - "unreadable": the file cannot be read.
      - "animations": several images or pages in one file.
      - "lossy-labels", "deep-labels", "transparent-labels": labels in codings or depths that lose class ids.
      - "damaged-images", "damaged-labels": any other file that cannot be decoded.
      - "sizes", "exif": the label does not match the image.
      - "unknown-ids", "unknown-colors", "two-readings": the palette cannot read the label.
      - "masks-0-255": the palette would ignore the label's foreground.

      And any number of properties that prepare would accept: "large-images", "deep-images", "other-colors" (of
      images), "blended-ids", "turned-labels", "one-class", "all-ignored", and those of `depth`.
    """
    steps = _Look(subject, palette, coding, max_pixels)
    try:
        image, label = _read(subject.image, read), _read(subject.label, read)
    except _Fault as fault:
        return with_print(seen_of(subject.number, fault.path, fault.kind, fault.detail), subject.number)
    tally = steps.examine(image, label)
    hash = None if steps.image is None else measures.perceptual_hash(steps.image)
    return with_print(tally, subject.number, _digest(image), _digest(label), hash)


class _Fault(Exception):
    """The reason why a pair would be rejected, and the path of the image or label at fault."""

    def __init__(self, path: str, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.path, self.kind, self.detail = path, kind, detail


def _read(path: str, read: Callable[[str], bytes]) -> bytes:
    try:
        return read(path)
    except OSError as error:
        raise _Fault(path, "unreadable", f"{path} cannot be read: {error.strerror or error}") from None


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


class _Look:
    """The steps of `look`, which share its arguments; `image` is set when it has been decoded."""

    def __init__(self, subject: Subject, palette: Palette | None, coding: str, max_pixels: int) -> None:
        self.subject, self.palette, self.coding, self.max_pixels = subject, palette, coding, max_pixels
        self.image: np.ndarray | None = None

    def tally(self, kind: str, detail: str, path: str = "") -> DoctorTally:
        return seen_of(self.subject.number, path or self.subject.label, kind, detail)

    def examine(self, image_data: bytes, label_data: bytes) -> DoctorTally:
        try:
            return self._whole(image_data, label_data)
        except _Fault as fault:
            return self.tally(fault.kind, fault.detail, fault.path)

    def _whole(self, image_data: bytes, label_data: bytes) -> DoctorTally:
        """The tally of a good pair; raises _Fault for a faulty one."""
        source = self._header("image", self.subject.image, image_data)
        labelled = self._header("label", self.subject.label, label_data)
        if labelled.lossy:
            raise _Fault(self.subject.label, "lossy-labels", f"is a {labelled.lossy}, which blurs class ids")
        if fault := images.mismatch(source, labelled):
            raise _Fault(self.subject.label, "sizes" if _sizes_differ(source, labelled) else "exif", fault)
        total = self._of_image(source)
        if self.subject.effort < DECODED:
            return total
        try:
            decoded, self.image = images.decode(image_data, self.max_pixels)
        except ImageError as error:
            raise _Fault(self.subject.image, "damaged-images", str(error)) from None
        if source.mode.startswith("I") or decoded.brightest:
            total += self.tally(*depth.kind_of(decoded.brightest), self.subject.image)
        label = self._decode_label(label_data, labelled)
        if self.palette is None:
            return total + DoctorTally(decoded=1)
        return total + self._of_label(label, source, labelled)

    def _header(self, what: str, path: str, data: bytes) -> Header:
        try:
            header = images.header(data, self.max_pixels)
        except ImageError as error:
            raise _Fault(path, f"damaged-{what}s", str(error)) from None
        if header.images > 1:
            raise _Fault(path, "animations", f"the {what} holds {header.images} images, frames or pages; expected one")
        if header.mode == "F":
            raise _Fault(path, f"damaged-{what}s", "its pixels are floating-point numbers of unknown range")
        return header

    def _of_image(self, source: Header) -> DoctorTally:
        return self._of_size(source) + self._of_samples(source)

    def _of_size(self, source: Header) -> DoctorTally:
        height, width = source.upright_size
        if self.subject.split != TILED or height * width <= LARGE**2:
            return DoctorTally()
        return self.tally("large-images", f"is {width}x{height}", self.subject.image)

    def _of_samples(self, source: Header) -> DoctorTally:
        if source.mode.startswith("I") or source.depth > 8:
            return self.tally(
                "deep-images", f"{source.depth} bits a sample, which are scaled to 8", self.subject.image
            )
        if source.mode not in ("RGB", "L"):
            detail = f"is of mode {source.mode}, and is turned into RGB"
            return self.tally("other-colors", detail, self.subject.image)
        return DoctorTally()

    def _decode_label(self, data: bytes, header: Header) -> Label:
        try:
            return label_images.read_label(data, self.max_pixels)
        except label_images.Transparent as error:
            raise _Fault(self.subject.label, "transparent-labels", str(error)) from None
        except ImageError as error:
            kind = "deep-labels" if header.depth > 8 or header.mode.startswith("I") else "damaged-labels"
            raise _Fault(self.subject.label, kind, str(error)) from None

    def _of_label(self, label: Label, source: Header, labelled: Header) -> DoctorTally:
        try:
            ids, counts = codings.counted_ids(label, self.palette, self.coding)
        except LabelError as error:
            return self._unknown(label, str(error))
        split = self.subject.split
        total = DoctorTally(
            decoded=1, pixels={split: counts}, labels={split: (counts > 0).astype(np.int64)}
        ) + self._of_classes(counts)
        if label.codes.ndim == 2 and label.colormap is None:
            share = measures.blended_share(label.codes, id_table(self.palette) != self.palette.ignore_id)
            if share >= measures.BLENDED:
                total += self.tally("blended-ids", f"{share:.0%} of the steps between ids pass through ids in between")
        if source.orientation != 1 and labelled.orientation == 1:
            total += self._of_turn(ids, source)
        if self.subject.effort >= ALIGNED and (scores := measures.fit(self.image, ids)) is not None:
            votes = np.zeros((2 * REACH + 1,) * 2, np.int64)
            votes[np.unravel_index(scores.argmax(), scores.shape)] = 1
            total += DoctorTally(alignment=Alignment(scores.astype(np.float64), votes))
        return total

    def _of_classes(self, counts: np.ndarray) -> DoctorTally:
        used = np.flatnonzero(counts[: self.palette.num_classes])
        if not len(used):
            return self.tally("all-ignored", "every pixel is ignored")
        if len(used) == 1:
            return self.tally("one-class", f"every pixel is {self.palette.names[used[0]]}, or ignored")
        # The pixels that have a class.
        example = Example(self.subject.number, self.subject.label, "")
        return DoctorTally(kinds={f"class {index}": Seen(1, (example,)) for index in used})

    def _of_turn(self, ids: np.ndarray, source: Header) -> DoctorTally:
        """The tally of a label with the image's upright size that seems to have been drawn on the image as stored."""
        turn = measures.turn(self.image, ids, source.orientation, self.palette.ignore_id)
        if turn is None:
            return DoctorTally()
        return self.tally(
            "turned-labels",
            f"fits the image better if turned by its EXIF orientation {source.orientation}: correlation "
            f"{turn.there:.2f} instead of {turn.here:.2f}",
        )

    def _unknown(self, label: Label, detail: str) -> DoctorTally:
        """The tally of a label that the palette cannot read, with the unknown values."""
        if label.colormap is not None and codings.two_readings(label, self.palette):
            return self.tally("two-readings", detail) + DoctorTally(decoded=1)
        if (codes := self._numbers(label)) is not None:
            values = pixels_of_ids(codes)
            table = id_table(self.palette)
            unknown = [code for code in np.flatnonzero(values).tolist() if table[code] == unknown_mark(self.palette)]
            pixels = {code: int(values[code]) for code in unknown}
            if not unknown:
                return self.tally("masks-0-255", detail) + DoctorTally(decoded=1)
            return self.tally("unknown-ids", detail) + DoctorTally(decoded=1, unknown_ids=pixels)
        known = color_meanings(self.palette)
        packed, pixels = np.unique(pack(label.rgb), return_counts=True)
        by_count = sorted(zip(pixels.tolist(), packed.tolist(), strict=True), reverse=True)
        colors = {color: number for number, one in by_count if (color := unpack(one)) not in known}
        total = self.tally("unknown-colors", detail) + DoctorTally(decoded=1) + of_colors(colors)
        for color, use in uses_of_colors(label.rgb).items():
            if use.deep and color in colors:
                total += DoctorTally(area_colors={color: use.pixels})
        return total

    def _numbers(self, label: Label) -> np.ndarray | None:
        """The ids, uint8 [H, W], of a label that the palette cannot read; None if it means classes by colours."""
        if label.codes.ndim == 3:
            return None
        if label.colormap is None or self.coding == "ids":
            return label.codes
        if self.coding == "colors":
            return None
        meanings = [*zip(label.used.tolist(), codings.seen_colors(label), strict=True)]
        if are_numbers(meanings, self.palette):
            return label.codes
        colors = {color for _, color in meanings}
        is_mask = colors <= {(0, 0, 0), (255, 255, 255)}
        return label.rgb[..., 0] if are_grey_ids(colors, self.palette) and not is_mask else None


def _sizes_differ(source: Header, labelled: Header) -> bool:
    """Whether the label differs from its image in size, however it is turned."""
    return sorted((source.width, source.height)) != sorted((labelled.width, labelled.height))
