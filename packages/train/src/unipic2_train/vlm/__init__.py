"""What a small vision-language model is taught: pictures, captions, instructions and questions of the shapes world."""
