"""A2A, by sections of the specification at a2a-protocol.org (docs/specification.md)."""

ENTRIES = {
    "A2A-1.0.1 3.1.1#send-message": "SendMessage starts a task; the task is durable before the answer.",
    "A2A-1.0.1 3.1.1#terminal": "A message to a task that has ended is UnsupportedOperationError.",
    "A2A-1.0.1 3.4.3#input-required": "A task that asks is input-required, says what, and goes on with the next message to it.",
    "A2A-1.0.1 3.1.2#stream": "A stream is the Task, its updates and artifact, and closes after the last state.",
    "A2A-1.0.1 3.1.3#get-task": "GetTask gives the same task over every binding.",
    "A2A-1.0.1 3.1.4#list-tasks": "ListTasks pages, filters, and refuses what it does not know.",
    "A2A-1.0.1 3.1.5#cancel-task": "CancelTask ends a task; one that has ended is TaskNotCancelableError.",
    "A2A-1.0.1 3.1.6#subscribe": "SubscribeToTask takes a task up again; one that has ended is refused.",
    "A2A-1.0.1 3.2.2#return-immediately": "SendMessage blocks to the end unless returnImmediately.",
    "A2A-1.0.1 3.2.4#history-length": "historyLength: all without it, none with 0, never negative.",
    "A2A-1.0.1 3.3.2#errors": "Each error has its code, and ErrorInfo with its reason and the domain a2a-protocol.org.",
    "A2A-1.0.1 3.3.4#capabilities": "What the card does not offer is refused with the error made for it.",
    "A2A-1.0.1 3.5.2#disconnect": "The task outlives its stream.",
    "A2A-1.0.1 3.6.2#version": "Any version but 1.0, and none at all, is VersionNotSupportedError.",
    "A2A-1.0.1 4.1.6#parts": "A part this agent cannot read is ContentTypeNotSupportedError or invalid parameters.",
    "A2A-1.0.1 4.4.1#card": "The card has every required field, both bindings and each skill.",
    "A2A-1.0.1 5.7#required-fields": "A missing field is invalid parameters, named; an unknown one is let pass.",
    "A2A-1.0.1 8.6#caching": "The card has an ETag and answers 304.",
    "A2A-1.0.1 9#json-rpc": "What is not one JSON-RPC 2.0 request has JSON-RPC's codes.",
    "A2A-1.0.1 11#http-json": "Errors over HTTP+JSON are google.rpc.Status with the HTTP status as code.",
}
