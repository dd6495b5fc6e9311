"""The server as OpenAI's own client sees it, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_blocks import blocks
from served import client, make_service, strategies, tiny_pooled
from starlette.testclient import TestClient

from t2.adaptation.fixed import Fixed
from t2.adaptation.two_pass import TwoPass
from t2.types import Example, Sampling

CHAT = {"model": "base", "messages": [{"role": "user", "content": "What is 3 + 4?"}], "max_tokens": 4, "temperature": 0}
TEXT = {"model": "base", "prompt": "one two", "max_tokens": 4, "temperature": 0}


@pytest.fixture(scope="module")
def http() -> Iterator[TestClient]:
    with client() as made:
        yield made


@pytest.fixture
def api(http: TestClient) -> openai.OpenAI:
    return openai.OpenAI(api_key="none", base_url=str(http.base_url) + "/v1", http_client=http, max_retries=0)


class TestAnswers:
    def test_the_models_are_base_experts_and_strategies(self, api: openai.OpenAI) -> None:
        names = [model.id for model in api.models.list()]
        assert names == ["base", "math", "letters", "prompt", "classifier"]
        assert api.models.retrieve("math").owned_by == "t2"

    def test_a_chat_is_answered_as_in_two_passes(self, api: openai.OpenAI) -> None:
        """Catches: turns that are lost, a mixture that is not the expert's, wrong usage."""
        model = tiny_pooled()
        example = Example("and 5?", system="Be brief.", shots=(("What is 3 + 4?", "7"),))
        (expected,) = TwoPass(model.generator, model.pool, Fixed(weights={"math": 1.0})).generate(
            [example], Sampling(max_new_tokens=6)
        )[0]
        messages = [("system", "Be brief."), ("user", "What is 3 + 4?"), ("assistant", "7"), ("user", "and 5?")]
        got = api.chat.completions.create(
            model="math",
            messages=[{"role": role, "content": text} for role, text in messages],  # type: ignore[misc]
            temperature=0,
            max_completion_tokens=6,
            logprobs=True,
        )
        assert got.choices[0].message.content == expected.text
        assert got.choices[0].finish_reason == "length"
        assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (len(expected.prompt_ids), 6)
        found = [token.logprob for token in got.choices[0].logprobs.content]
        assert found == pytest.approx(expected.log_probs, abs=1e-4)
        assert got.t2["mixing_weights"] == {"math": 1.0, "letters": 0.0}

    def test_a_stream_is_the_whole_in_pieces(self, api: openai.OpenAI) -> None:
        how = {**CHAT, "model": "prompt", "max_tokens": 20, "n": 2, "seed": 3, "temperature": 1.0, "stop": ["q"]}
        whole = api.chat.completions.create(**how)
        chunks = list(api.chat.completions.create(**how, stream=True, stream_options={"include_usage": True}))
        for index in range(2):
            parts = [c.delta.content or "" for chunk in chunks for c in chunk.choices if c.index == index]
            assert "".join(parts) == whole.choices[index].message.content
            assert len(parts) > 5
        assert chunks[0].t2["label"] in ("math", "letters", "other")
        assert set(chunks[0].t2["scores"]) == {"math", "letters", "other"}
        assert all(not choice.delta.content for choice in chunks[0].choices), "before the first token"
        assert chunks[-2].t2["pass2_s"] > 0
        assert chunks[-1].usage == whole.usage

    def test_a_mixture_can_be_given_by_hand(self, api: openai.OpenAI) -> None:
        """Catches: weights in another order than the pool's."""
        model = tiny_pooled()
        strategy = Fixed(weights={"letters": 1.2, "math": 0.1})
        (expected,) = TwoPass(model.generator, model.pool, strategy).generate(
            [Example("What is 3 + 4?")], Sampling(max_new_tokens=4)
        )[0]
        weights = {"letters": 1.2, "math": 0.1}
        got = api.chat.completions.create(**CHAT, extra_body={"t2": {"mixing_weights": weights}})
        assert got.choices[0].message.content == expected.text
        assert got.t2["mixing_weights"] == weights

    def test_texts_are_gone_on_with(self, api: openai.OpenAI) -> None:
        several = api.completions.create(**{**TEXT, "prompt": ["one two", "three"]})
        single = [api.completions.create(**{**TEXT, "prompt": one}).choices[0].text for one in ("one two", "three")]
        assert [choice.text for choice in several.choices] == single
        parts = [chunk.choices[0].text for chunk in api.completions.create(**TEXT, stream=True)]
        assert "".join(parts) == single[0]
        assert several.usage.completion_tokens == 8

    def test_the_pool_and_its_experts_are_described(self, http: TestClient) -> None:
        about = http.get("/v1/t2/pool").json()
        assert about["strategies"] == ["prompt", "classifier"]
        assert [one["name"] for one in about["experts"]] == ["math", "letters"]
        assert about["examples"] == {"math": ["What is 3 + 4?"]}
        heat = http.get("/v1/t2/experts/math").json()
        assert heat["layers"] == [0, 1]
        assert "mlp.up_proj" in heat["modules"]
        pool = tiny_pooled().pool
        module = next(name for name in pool.modules if "layers.1." in name and name.endswith("mlp.up_proj"))
        expected = float((pool.experts["math"].scales[module] - 1).abs().mean())
        assert heat["mean_abs"][1][heat["modules"].index("mlp.up_proj")] == pytest.approx(expected)

    def test_prompts_of_one_request_are_sampled_apart_unless_a_seed_is_given(self, http: TestClient) -> None:
        asked = {"model": "base", "prompt": ["once upon"] * 3, "temperature": 1.0, "max_tokens": 12}
        apart, same = (
            {choice["text"] for choice in http.post("/v1/completions", json=asked | more).json()["choices"]}
            for more in ({}, {"seed": 3})
        )
        assert len(apart) == 3
        assert len(same) == 1

    def test_the_example_of_the_documentation_runs(
        self, api: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (block,) = [one for one in blocks("python") if one.page == "docs/serving.md"]
        monkeypatch.setattr(openai, "OpenAI", lambda **_: api)
        exec(compile(block.text, block.page, "exec"), {})
        assert "'mixing_weights'" in capsys.readouterr().out

    def test_metrics_and_health(self, http: TestClient) -> None:
        http.post("/v1/chat/completions", json=CHAT)
        text = http.get("/metrics").text
        assert 't2_requests_total{endpoint="chat",model="base",status="200"}' in text
        for name in ("t2_completion_tokens_total", "t2_waiting_requests", "t2_first_token_seconds_count"):
            assert name in text
        assert http.get("/health").json() == {"status": "ok"}


WRONG: list[tuple[dict[str, object], int, str]] = [
    ({"model": "maths"}, 404, "Did you mean 'math'"),
    ({"n": 0}, 400, "n: "),
    ({"n": 33}, 400, "1 to 32"),
    ({"n": True}, 400, "n: "),
    ({"temperature": -0.1}, 400, "temperature"),
    ({"temperature": 2.5}, 400, "temperature"),
    ({"temperature": "hot"}, 400, "temperature"),
    ({"top_p": 0}, 400, "top_p"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"max_tokens": 10**6}, 413, "Lower max_tokens"),
    ({"seed": -1}, 400, "seed"),
    ({"stop": ["a"] * 5}, 400, "at most 4"),
    ({"stop": ""}, 400, "stop"),
    ({"messages": []}, 400, "messages"),
    ({"messages": [{"role": "user", "content": "  "}]}, 400, "empty"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "user's last"),
    ({"messages": [{"role": "tool", "content": "x"}]}, 400, "role"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, 400, "content"),
    ({"messages": [{"role": "user", "content": "x " * 600}]}, 413, "the context of"),
    ({"messages": [{"role": "user", "content": "x " * 200}], "max_tokens": 200}, 413, "512 together"),
    ({"frequency_penalty": 1.0}, 400, "frequency_penalty is not supported"),
    ({"tools": [{}]}, 400, "tools is not supported"),
    ({"top_logprobs": 3}, 400, "top_logprobs is not supported"),
    ({"stream_options": {"include_usage": True}}, 400, "stream=true"),
    ({"unheard": 1}, 400, "unheard: this key is not known"),
    ({"\ud800": 1}, 400, "unicode"),
    ({"t2": {"mixing_weights": {"sums": 1}}}, 400, "allowed: letters, math"),
    ({"t2": {"mixing_weights": {"math": 11}}}, 400, "-10.0 to 10.0"),
    ({"t2": {"mixing_weights": {"math": float("nan")}}}, 400, "nan"),
    ({"t2": {"weights": {}}}, 400, "t2.weights"),
]


class TestRefusals:
    @pytest.mark.parametrize(("change", "status", "message"), WRONG)
    def test_what_cannot_be_answered(
        self, http: TestClient, change: dict[str, object], status: int, message: str
    ) -> None:
        body = json.dumps({**CHAT, **change})
        got = http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
        error = got.json()["error"]
        assert got.status_code == status, error
        assert message in error["message"]
        assert error["code"] in ("model_not_found", "invalid_value", "context_length_exceeded")

    @pytest.mark.parametrize("body", ["", "{", "[]", "null", "3", '{"a": NaN', "\x00", '{"n":' * 2000, '"x"', "{}"])
    def test_what_is_no_request(self, http: TestClient, body: str) -> None:
        got = http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
        assert got.status_code == 400
        assert got.json()["error"]["message"]

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(
        key=st.sampled_from([*CHAT, "n", "stop", "seed", "top_p", "stream", "t2", "user_name"]),
        value=st.recursive(
            st.none() | st.booleans() | st.integers(-5, 10**30) | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=5,
        ),
        path=st.sampled_from(["chat/completions", "completions"]),
    )
    def test_200_malformed_requests_are_200_clear_refusals(
        self, http: TestClient, key: str, value: object, path: str
    ) -> None:
        body = {**(CHAT if path.startswith("chat") else TEXT), "model": "none of these", key: value}
        got = http.post(f"/v1/{path}", content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert 400 <= got.status_code < 500, (body, got.text)
        assert got.json()["error"]["message"]

    def test_openais_client_raises_what_it_knows(self, api: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError, match="not served"):
            api.chat.completions.create(**{**CHAT, "model": "gpt-4"})
        with pytest.raises(openai.BadRequestError):
            api.chat.completions.create(**{**CHAT, "n": 0})

    def test_another_host_name_is_refused(self, http: TestClient) -> None:
        """Catches: a page of a stranger whose name points to this machine."""
        assert http.get("/v1/models", headers={"Host": "evil.example"}).status_code == 400
        assert http.get("/v1/models", headers={"Host": "[::1]:8000"}).status_code == 200
        got = http.post("/v1/chat/completions", json=CHAT, headers={"Origin": "http://evil.example"})
        assert not [name for name in got.headers if name.startswith("access-control")]
        assert http.post("/v1/chat/completions", content=json.dumps(CHAT)).status_code == 400, "a form could send it"

    def test_paths_that_are_not_there(self, http: TestClient) -> None:
        assert http.get("/v1/nothing").json()["error"]["message"] == "Not Found"
        assert http.get("/v1/chat/completions").status_code == 405
        assert http.get("/docs").status_code == 404
        assert http.get("/v1/t2/experts/none").status_code == 404


def test_a_key_is_asked_for() -> None:
    with client(key="secret") as http:
        assert http.get("/v1/models").status_code == 401
        assert http.get("/metrics").status_code == 401
        assert http.get("/health").status_code == 200
        for given_key, status in (("Bearer wrong", 401), ("secret", 401), ("Bearer secret", 200), ("Bearer é", 401)):
            headers = {b"Authorization": given_key.encode()}
            assert http.get("/v1/models", headers=headers).status_code == status
        assert http.get("/v1/models", headers={"Host": "some.name", "Authorization": "Bearer secret"}).is_success


def test_a_name_means_one_model() -> None:
    named = strategies()
    named[0].name = "math"
    with pytest.raises(ValueError, match="math: each model needs a name of its own"):
        make_service(chosen=named)
