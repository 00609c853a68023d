"""What training minimises: detection, masks, and their sum."""
