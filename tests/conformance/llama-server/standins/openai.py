"""In place of OpenAI's Python client, which Debian has not: the calls that the suite makes, over requests. The client itself, of node, is
driven by ./dev conformance clients."""
import json

import requests


class APIStatusError(Exception):
    def __init__(self, response):
        super().__init__(f"{response.status_code}: {response.text}")
        self.status_code = response.status_code
        self.body = response.json()


class AuthenticationError(APIStatusError):
    pass


class Value:
    """An object of an answer; members that are not there are None, as the client's optional ones."""

    def __init__(self, members):
        self.__dict__.update({name: wrap(value) for name, value in members.items()})

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "output_text":
            parts = [part for item in self.output for part in (item.content or [])]
            return "".join(part.text for part in parts if part.type == "output_text")
        return None


def wrap(value):
    if isinstance(value, dict):
        return Value(value)
    return [wrap(one) for one in value] if isinstance(value, list) else value


class Resource:
    def __init__(self, client, path):
        self._client = client
        self._path = path

    def create(self, **members):
        body = {name: value for name, value in members.items() if name != "extra_body"}
        body.update(members.get("extra_body") or {})
        return self._client.post(self._path, body)


class OpenAI:
    def __init__(self, api_key="", base_url="", **options):
        self._url = base_url.rstrip("/")
        self._fields = {"Authorization": f"Bearer {api_key}"}
        self.completions = Resource(self, "/completions")
        self.embeddings = Resource(self, "/embeddings")
        self.responses = Resource(self, "/responses")
        self.chat = Value({})
        self.chat.completions = Resource(self, "/chat/completions")

    def post(self, path, body):
        stream = bool(body.get("stream"))
        response = requests.post(self._url + path, headers=self._fields, json=body, stream=stream, timeout=600)
        if response.status_code != 200:
            raise (AuthenticationError if response.status_code == 401 else APIStatusError)(response)
        return self._events(response) if stream else wrap(response.json())

    @staticmethod
    def _events(response):
        for line in response.iter_lines():
            if line.startswith(b"data: ") and line != b"data: [DONE]":
                yield wrap(json.loads(line[6:]))
