"""What Schemathesis has to know beyond the document."""

from typing import Any

import schemathesis
from schemathesis.specs.openapi.checks import negative_data_rejection

EVENT = {
    "type": "object",
    "properties": {"id": {"type": "string"}, "event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}


@schemathesis.hook
def before_load_schema(context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """Describes an event where the document describes a stream.

    OpenAPI 3.1 knows an event stream as one text; Schemathesis holds every event to the schema of the stream.
    """
    for operations in raw_schema["paths"].values():
        for operation in operations.values():
            for response in operation.get("responses", {}).values():
                stream = response.get("content", {}).get("text/event-stream")
                if stream is not None:
                    stream["schema"] = EVENT


@schemathesis.check
def broken_data_rejection(
    context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> bool | None:
    """Broken requests are refused, but for forms.

    Whatever stands in a field of a form is text, so an object in place of a text is none there.
    """
    if case.media_type == "multipart/form-data":
        return None
    return negative_data_rejection(context, response, case)
