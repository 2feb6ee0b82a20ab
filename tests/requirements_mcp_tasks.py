"""The tasks extension of MCP, by headings of modelcontextprotocol/ext-tasks, specification/draft/tasks."""

EXT = "MCP-EXT-TASKS-draft tasks"
ENTRIES = {
    f"{EXT}#capability-negotiation": "Without the extension in the request there is no task, and a tool that must be one is -32021.",
    f"{EXT}#task-creation": "CreateTaskResult comes when the task is durable, after whatever is asked before it.",
    f"{EXT}#task-polling": "tasks/get gives the status and what belongs to it: result, error or inputRequests.",
    f"{EXT}#task-update-requests": "Answers may be partial; keys that are not outstanding are ignored.",
    f"{EXT}#task-cancellation": "tasks/cancel is acknowledged, also of a task that has ended.",
    f"{EXT}#task-status-notifications": "A listen stream tells of the caller's own tasks that it names.",
    f"{EXT}#streamable-http-routing-headers": "Mcp-Name says the task's id, or the request is -32020.",
    f"{EXT}#protocol-errors": "An unknown task is -32602, and a client that declares nothing gets -32021.",
    f"{EXT}#task-execution-errors": "A tool's error is a completed task with isError; failed is for JSON-RPC errors.",
    f"{EXT}#security-considerations": "Each request is checked for who asks; nobody learns of somebody else's task.",
}
