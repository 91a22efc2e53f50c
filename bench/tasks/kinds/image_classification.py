"""Image classification: one class for each image."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import Field

from bench.machine import cache
from bench.models.structure import Structure
from bench.tasks.base import Batch, Split, TaskError
from bench.tasks.items import Item
from bench.tasks.kinds.classification import Classification
from bench.tasks.own import OwnData
from bench.tasks.rows import Row, Rows
from bench.tasks.table import DataTable, Name

if TYPE_CHECKING:
    import torch

    from bench.tasks.tokens import EncodedTexts

SUFFIXES = (".png", ".jpg", ".jpeg")


class ImagesTable(DataTable):
    """One's own images with a class each: a folder of folders, each called as its class, or a column of a data set."""

    image: Name = Field("image", description="the column that holds the image; of a folder of images it is not asked")
    label: Name = Field(
        "label", description="the column that holds the class; of a folder it is the name of the image's folder"
    )
    label_order: list[Name] | None = Field(
        None, description="the classes in the order of the model's logits; sorted by name otherwise"
    )


class ImageClassification(Classification):
    """A class for each image. Images of the same content are one item, whatever they are called.

    An item's text is the image's file in base64, so that images go the same ways as texts: into their splits, and into an
    Arrow file in the cache. Lengths count each image as one token.
    """

    kind = "image_classification"
    learns = "from images with a class each"
    table = ImagesTable
    auto_class = "AutoModelForImageClassification"
    peft_task_type = None
    reads = (".parquet", ".arrow")
    reads_texts = False
    reads_images = True
    labels_texts = False

    def __init__(self, table: DataTable | None = None, suite_folder: Path = Path()) -> None:
        super().__init__(table, suite_folder)
        if table is not None:
            self.own = OwnImages(table, suite_folder, self.columns(table))

    @classmethod
    def from_table(cls, table: DataTable, suite_folder: Path) -> ImageClassification:
        """One's own data."""
        return cls(table, suite_folder)

    # -- planning, without torch -----------------------------------------------------------------------------

    @classmethod
    def columns(cls, table: Any) -> tuple[str, ...]:
        """The image and the label."""
        return table.image, table.label

    def item(self, row: Row) -> Item:
        """The image of a row, and its class."""
        image, label = row.rows.columns
        return Item((base64.b64encode(_content(row, image)).decode("ascii"),), self._label(row, label))

    def model_problem(self, model_type: str, structure: Structure) -> str:
        """It reads images."""
        if structure.auto_classes and self.auto_class not in structure.auto_classes:
            return f"a {model_type} model reads no images; use one that does, such as ViT"
        return ""

    # -- in a stage's own process ----------------------------------------------------------------------------

    def encode(self, split: Split, tokenizer: Any, max_length: int) -> EncodedTexts:
        """Images with their labels; `tokenizer` is the model's image processor."""
        import torch

        return EncodedImages(tokenizer, self.texts(split), torch.tensor(self.targets(split)))  # type: ignore[return-value]


class EncodedImages:
    """A split's images, read and processed where a batch asks for them."""

    def __init__(self, processor: Any, images: Sequence[str], targets: torch.Tensor) -> None:
        self._processor, self._images, self._targets = processor, images, targets
        self.lengths = (1,) * len(images)

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, items: Sequence[int]) -> Batch:
        """These items, in this order, on the CPU: ``pixel_values`` are ``[items, channels, height, width]``."""
        import torch
        from PIL import Image

        images = [Image.open(io.BytesIO(base64.b64decode(self._images[item]))).convert("RGB") for item in items]
        pixels = self._processor(images=images, return_tensors="pt")["pixel_values"]
        ones = (1,) * len(items)
        return Batch({"pixel_values": pixels}, self._targets[torch.tensor(items)], ones, ones, tuple(items))


def _content(row: Row, column: str) -> bytes:
    """The bytes of a row's image, in one of the formats that images are kept in.

    Raises:
        TaskError: it is none, or cannot be read.
    """
    from PIL import Image

    value = row.values[column]
    if isinstance(value, Mapping):  # as datasets writes images into files
        value = value.get("bytes") or value.get("path")
    if isinstance(value, Image.Image):  # as datasets reads them
        kept = io.BytesIO()
        value.save(kept, "PNG")
        return kept.getvalue()
    try:
        content = value if isinstance(value, bytes) else Path(value).read_bytes()
        with Image.open(io.BytesIO(content)) as found:
            found.verify()
    except OSError as error:  # PIL's own is one too
        raise row.error(
            f"`{column}` cannot be read as an image ({error.strerror or 'not one, or damaged'}); copy it again, or take it out"
        ) from None
    except Exception as error:  # whatever a damaged image does
        raise row.error(
            f"`{column}` is an image's file or bytes, found {value!r:.60} ({type(error).__name__})"
        ) from None
    return content


class OwnImages(OwnData):
    """One's own data, of which a folder may hold images in folders that are called as their classes."""

    def _saved(self, folder: Path) -> Mapping[Split | None, Rows]:
        if any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
            return super()._saved(folder)
        splits = {split: folder / split for split in get_args(Split) if (folder / split).is_dir()}
        if "train" in splits and "test" not in splits:
            raise TaskError(
                f"{folder}: it has a folder train and no folder test; make one, or give the folders of the classes alone"
            )
        if "train" in splits:
            return {split: ImageRows(place, self.columns) for split, place in splits.items()}
        return {None: ImageRows(folder, self.columns)}


class ImageRows(Rows):
    """The images of a folder, each in a folder that is called as its class."""

    @property
    def counted_by(self) -> str:
        """What a row's number counts."""
        return "image"

    def fingerprint(self) -> str:
        """A SHA-256 over the contents of all images with their classes."""
        found = [f"{label} {cache.sha256(file)}" for label, file in self._files()]
        return hashlib.sha256("\n".join(found).encode()).hexdigest()

    def __iter__(self) -> Iterator[Row]:
        image, label = self.columns
        number = 0
        for number, (name, file) in enumerate(self._files(), 1):
            rows = ImageRows(file, self.columns)  # so that an error names the image
            yield Row(rows, number, {image: str(file), label: name})
        if not number:
            raise self.error(
                f"it has no images ({', '.join(SUFFIXES)}) in folders that are called as their classes; make such folders"
            )

    def _files(self) -> Iterator[tuple[str, Path]]:
        for folder in sorted(self.file.iterdir()):
            if folder.is_dir():
                yield from ((folder.name, file) for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES)
