"""Data sets. Every data set yields the same columns: `image` (N, 3, H, W) float32 and `label` (N,) int32."""

from __future__ import annotations

from src.dataset.options import DataConfig
from src.dataset.pipeline import check_shards, evaluation_pipeline, preprocessing_of, training_pipeline
from src.dataset.splits import open_evaluated, open_source, splits

__all__ = [
    "check_shards",
    "create_dataset",
    "evaluation_pipeline",
    "open_evaluated",
    "open_source",
    "preprocessing_of",
    "splits",
    "training_pipeline",
]


def create_dataset(source: str, split: str, *, num_shards: int = 1, shard_id: int = 0, seed: int = 1, **options):
    """Create a batched MindSpore data set.

    source, split: see open_source; `options` are further fields of DataConfig.
    num_shards, shard_id: the part of the images that this device reads.

        create_dataset("cifar10", "train", data_path="./data", batch_size=32, image_size=224)
    """
    config = DataConfig(dataset=source, **options)
    images = open_source(config, split)
    preprocessing = preprocessing_of(config, images)
    if split == "train":
        return training_pipeline(images, config, preprocessing, seed, num_shards, shard_id)
    return evaluation_pipeline(
        images, preprocessing, config.batch_size, config.num_workers, num_shards, shard_id, config.max_broken_images
    )
