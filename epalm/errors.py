"""The one exception that users see: a single sentence that says what was wrong and what to do."""


class EPALMError(Exception):
    """Raised for every foreseeable problem with a user's file, model, question or installation.

    The message is one complete sentence, fit to be shown as it is by the command line (which exits with
    code 2) and by the demo. Programming errors keep their own types and tracebacks.
    """


def reason(error: BaseException) -> str:
    """The first line of a library's error, to stand in brackets; its type if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
