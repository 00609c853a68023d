"""Whatever was recorded, a bag, a video or images, as one stream of images and their labels."""
