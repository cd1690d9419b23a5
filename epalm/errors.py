"""The one exception that users see: a single sentence that says what was wrong and what to do."""


class EPALMError(Exception):
    """Raised for every foreseeable problem with a user's file, model, question or installation.

    The message is one complete sentence, fit to be shown as it is by the command line (which exits with
    code 2) and by the demo. Programming errors keep their own types and tracebacks.
    """
