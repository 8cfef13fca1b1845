"""Which layouts and styles are for training, and which for validation."""

TRAIN_SCENES, VALIDATION_SCENES = 5120, 256
# Number of layouts that share a style.
SHARING = 4
# The first number of the validation's layouts and styles.
VALIDATION_SEED = 1_000_000
