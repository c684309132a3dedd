"""What is said on the host's console."""
import sys


def tell(text: str) -> None:
    """Letters that the console has not, as a Windows pipe has few, become escapes: an error would end the image."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(f"sd-debias: {text}".encode(encoding, "backslashreplace").decode(encoding))
