"""What a network sees in images, videos, bags and cameras, as pictures: `mtc-replay predict`."""
