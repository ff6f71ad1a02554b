"""The words of a study small enough for a test."""

TINY = (
    "data.synthetic.train_videos=8",
    "data.synthetic.val_videos=2",
    "data.synthetic.frames=2",
    "train.epochs=3",
    "train.batch=4",
    "train.frames_per_video=4",
    "train.checkpoint_every=1",
)  # 21 iterations, a look every 3
