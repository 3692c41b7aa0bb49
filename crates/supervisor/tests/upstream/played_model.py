"""The model behind LiteLLM's Messages API, as a custom provider of LiteLLM's.

LiteLLM parses the request, checks the key, and makes the stream of events; only what a model would
think of is here. Requests and answers are in its own form, which is OpenAI's.

Each answer says what LiteLLM took the request for, so that a test sees where its text came from.
"""

import importlib.metadata
import json
import re

from litellm import CustomLLM

# Less than a sentence: the arguments of a tool then come in many pieces, as from a model.
PIECE = 24


class PlayedModel(CustomLLM):
    async def astreaming(self, messages, optional_params, litellm_params, **_):
        metadata = litellm_params["metadata"]
        client = metadata["headers"].get("user-agent", "nobody")
        said = f"LiteLLM {importlib.metadata.version('litellm')} streams this to {client}."
        tools = {tool["function"]["name"]: tool["function"] for tool in optional_params.get("tools") or []}
        # What the CLI says as `system` within the messages arrives as `user`, also behind a tool's result.
        roles = [message["role"] for message in messages]
        print("request:", metadata["user_api_key_hash"], client, roles, sorted(tools), flush=True)
        name, arguments = next_call(said, text_of(messages), "tool" in roles, tools)
        yield chunk(text=said)
        if name:
            yield chunk(tool={"id": f"toolu_{len(messages)}", "name": name, "arguments": ""})
            arguments = json.dumps(arguments)
            for at in range(0, len(arguments), PIECE):
                yield chunk(tool={"id": None, "name": None, "arguments": arguments[at:at + PIECE]})
        yield chunk(finish="tool_calls" if name else "stop")


def next_call(said, prompt, has_called, tools):
    """Returns the tool to call next, and its arguments."""
    wanted = tools.get("StructuredOutput", {}).get("parameters", {}).get("properties", {})
    task = between(prompt, r"<task [^>]*>\n", "\n</task>")
    folder = between(prompt, '<output artifacts="', '"')
    if "tasks" in wanted:
        look = {"id": "look", "worker": "marie", "description": "Look at it", "dependencies": []}
        judge = {"id": "judge", "worker": "anga", "description": "Judge it", "dependencies": ["look"]}
        return "StructuredOutput", {"tasks": [look, judge]}
    if "report" in wanted:
        results = re.findall(r'<input task="([^"]*)"[^>]* status="([^"]*)"', prompt)
        return "StructuredOutput", {"summary": said, "report": f"# Report\n\n{said}\n\n{results}\n"}
    if "summary" in wanted and "Write" in tools and folder and not has_called:
        return "Write", {"file_path": f"{folder}/note.md", "content": said}
    if "summary" in wanted:
        artifacts = ["note.md"] if has_called else []
        done = {"summary": f"{said} It was asked: {task}", "findings": [], "recommendations": [], "artifacts": artifacts}
        return "StructuredOutput", done
    return None, None


def text_of(messages):
    parts = (part for message in messages for part in as_list(message.get("content")))
    return "\n".join(part if isinstance(part, str) else part.get("text", "") for part in parts)


def as_list(content):
    return content if isinstance(content, list) else [content or ""]


def between(text, begin, end):
    found = re.search(f"{begin}(.*?){end}", text, re.DOTALL)
    return found and found[1]


def chunk(text="", tool=None, finish=""):
    function = tool and {"name": tool["name"], "arguments": tool["arguments"]}
    return {
        "text": text,
        "tool_use": tool and {"id": tool["id"], "type": "function", "function": function, "index": 0},
        "is_finished": bool(finish),
        "finish_reason": finish,
        "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150} if finish else None,
        "index": 0,
    }


model = PlayedModel()
