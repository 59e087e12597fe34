"""Proposals by a Claude model, through Anthropic's SDK.

One request is one proposal. The tool, the task and the operator's brief come first, then the program, each with a cache
mark, then what changes every time (docs: prompt caching). The model answers by a call of one tool; it is asked to, and
not forced, because current models refuse a forced choice. The answer is streamed, and bounded in bytes and in seconds
at the transport, where a server that only drips cannot get round it. Retries are the SDK's.

The key goes from the caller into the SDK's client and nowhere else. Errors are told in sentences of our own, raised
apart from the SDK's exceptions, which carry the request and so the key; a text that repeats the key is not passed on.

Importing this module takes a second or two: do so only where the proposer is wanted. Errors:

ProposerError
├── ProgramUnreadable       the parent is no Python
└── ProposalFailed          with the seconds and dollars that it took
    ├── BudgetExhausted     the day's cap leaves no room
    ├── ServiceUnavailable  overloaded, limited, failing, gone or too slow: again later
    ├── ServiceRefused      the key, the account, the model's name or the request: an operator has to act
    ├── ModelRefused        the model will not answer this
    ├── AnswerTruncated     it ran into the limit of tokens
    ├── AnswerMalformed     no tool call, or not with what the tool takes
    ├── EditUnappliable     the edits do not fit, or do not make a program
    └── AlreadyTried        nothing new
"""

import json
import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal, NamedTuple, cast

import anthropic
import httpx2
from anthropic.types import MessageParam, TextBlockParam, ToolParam, ToolUseBlock, Usage
from msgspec import Meta, Struct

from trainer.proposers.answers import (
    HYPOTHESIS_CHARACTERS_MAX,
    TOOL_DESCRIPTION,
    TOOL_NAME,
    TOOL_SCHEMA,
    AnswerMalformed,
    applied,
    check_new,
    expected_of,
    read_answer,
)
from trainer.proposers.briefing import Setting, brief_text, program_text, state_text, task_text
from trainer.proposers.proposal import Context, Proposal, fingerprint
from trainer.proposers.quoting import Quoter, clean_line
from trainer.proposers.spending import Charge, Hold, ProposalFailed, Spending, Tokens

BASE_URL = "https://api.anthropic.com"
MODEL = "claude-sonnet-5-5"  # of the SDK's list the current one that its maker calls the best of speed and intelligence
ANSWER_BYTES_MAX = 16 * 2**20  # of the stream: some hundred bytes of framing a token
OVERHEAD_TOKENS = 2000  # that the service adds to a request with a tool
WAIT_S_MAX = 30.0  # before a retry, if the service asks for it; longer, and another proposer has its turn
KEY_CHARACTERS_MIN = 8
SAID_CHARACTERS_MAX = 300  # of the service's own words in a sentence
ASK = f"Propose one change of the program now, by calling the tool `{TOOL_NAME}` once."


class ServiceUnavailable(ProposalFailed):
    """The service cannot answer now: overloaded, over a rate limit, failing, out of reach or too slow."""


class ServiceRefused(ProposalFailed):
    """The service will not answer until an operator has changed something."""


class ModelRefused(ProposalFailed):
    """The model declined."""


class AnswerTruncated(ProposalFailed):
    """The answer ran into a limit of tokens before it was whole."""


class Options(Struct, frozen=True, kw_only=True):
    """What an operator may set."""

    model: Annotated[str, Meta(min_length=1, max_length=100)] = MODEL
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None  # None: the model's own default
    tokens_max: Annotated[int, Meta(ge=1024, le=128_000)] = 24_000  # of an answer, thinking included
    retries_max: Annotated[int, Meta(ge=0, le=10)] = 2
    silence_s: Annotated[float, Meta(gt=0, le=600)] = 60.0  # between two pieces of an answer
    answer_s: Annotated[float, Meta(gt=0, le=3600)] = 600.0  # for a whole answer
    base_url: Annotated[str, Meta(pattern="^https?://", max_length=500)] = BASE_URL


class _Request(NamedTuple):
    system: list[TextBlockParam]
    messages: list[MessageParam]
    tools: list[ToolParam]

    def tokens_max(self) -> int:
        """More than the prompt can have: a token is at least one byte."""
        text = json.dumps([self.system, self.messages, self.tools], ensure_ascii=False)
        return len(text.encode(errors="replace")) + OVERHEAD_TOKENS


class _Answered(NamedTuple):
    """What came of a request, good or bad."""

    failure: ProposalFailed | None
    block: ToolUseBlock | None
    tokens: Tokens | None  # None: nothing was used
    exact: bool


class AnthropicProposer:
    """Asks a model. One instance may be used from several threads."""

    name = "anthropic"

    def __init__(
        self,
        key: str,
        setting: Setting,
        rules: Sequence[str],
        spending: Spending,
        *,
        options: Options | None = None,
        record: Callable[[Charge], None] = lambda charge: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        quoting_key: bytes | None = None,
    ) -> None:
        """`rules`: the screen's, a sentence each. `record` hears every charge before its proposal is handed out.

        `clock` counts seconds, `now` is seconds since 1970. `quoting_key`: see `Quoter`; drawn afresh if None.
        Raises `ValueError` for a key that cannot be one.
        """
        if len(key) < KEY_CHARACTERS_MIN or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("the key for the Anthropic API is empty, too short, or has characters that no key has")
        self._options = options or Options()
        self._task = task_text(setting, rules)
        self._spending, self._record = spending, record
        self._clock, self._now = clock, now
        self._quoter = Quoter(quoting_key or secrets.token_bytes(32))
        self._holds_key: Callable[[str], bool] = lambda text: key in text
        self._client = anthropic.Anthropic(
            api_key=key,
            base_url=self._options.base_url,
            max_retries=self._options.retries_max,
            timeout=httpx2.Timeout(self._options.silence_s, connect=min(10.0, self._options.silence_s)),
            default_headers={"Accept-Encoding": "identity"},  # a bound in bytes means what it says
            http_client=httpx2.Client(follow_redirects=False, event_hooks={"response": [self._bound]}),
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def propose(self, context: Context, rng: random.Random) -> Proposal:
        """A change that the model proposes. `rng` is not used: the model's chance is its own.

        Raises the errors of the module's text, and `OSError` where the charge cannot be recorded.
        """
        started = self._clock()
        fingerprint(context.program)  # a parent that is no program is not worth a request
        request = self._request(context)
        most = Tokens(cache_write=request.tokens_max(), output=self._options.tokens_max)
        held = self._spending.hold(self._options.model, most, self._now())
        usd, settled = 0.0, False
        try:
            answered = self._ask(request, most)
            settled = True
            usd = self._settle(held, answered)
            if answered.failure is not None:
                raise answered.failure
            assert answered.block is not None, "an answer is a failure or a call"
            return self._proposal(answered.block, context, usd, started)
        except ProposalFailed as failure:
            failure.usd, failure.seconds = usd, self._clock() - started
            if self._holds_key(str(failure)):  # what is wrong with an answer may quote it
                failure.args = ("the answer is unusable, and repeats this node's key: replace the key",)
            raise
        finally:
            if not settled:  # our own fault, or the thread's end: it may have cost anything
                self._record(self._spending.charge(held, most, self._now(), exact=False))

    def _settle(self, held: Hold, answered: _Answered) -> float:
        if answered.tokens is None:
            self._spending.release(held)
            return 0.0
        charge = self._spending.charge(held, answered.tokens, self._now(), exact=answered.exact)
        self._record(charge)
        return charge.usd

    def _request(self, context: Context) -> _Request:
        brief = brief_text(context)
        system = [_cached(self._task), *([_cached(brief)] if brief else [])]
        content = [
            _cached(program_text(context, self._quoter)),
            TextBlockParam(type="text", text=state_text(context, self._quoter)),
            TextBlockParam(type="text", text=ASK),
        ]
        tool: ToolParam = {"name": TOOL_NAME, "description": TOOL_DESCRIPTION, "input_schema": TOOL_SCHEMA}
        message: MessageParam = {"role": "user", "content": content}
        return _Request(system, [message], [tool])

    def _ask(self, request: _Request, most: Tokens) -> _Answered:
        """Every end that a request can have. The SDK's exceptions do not leave this method."""
        usage: Usage | None = None
        lost = True  # whether it may have cost something that nobody told us
        try:
            with self._client.messages.stream(
                model=self._options.model,
                max_tokens=self._options.tokens_max,
                system=request.system,
                messages=request.messages,
                tools=request.tools,
                output_config={"effort": self._options.effort} if self._options.effort else anthropic.omit,
            ) as stream:
                for event in stream:
                    if event.type == "message_start":
                        usage = event.message.usage
                message = stream.get_final_message()
            if message.stop_reason is None:
                failure: ProposalFailed = ServiceUnavailable("the answer broke off before its end")
            else:
                return self._read(message.stop_reason, message.content, _tokens(message.usage))
        except anthropic.APIStatusError as error:
            lost = error.status_code < 400  # told inside a stream that had begun well
            failure = self._status(error)
        except anthropic.APIConnectionError as error:
            lost = not isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout)
            slow = "is too slow" if isinstance(error, anthropic.APITimeoutError) else "cannot be reached"
            failure = ServiceUnavailable(f"the service {slow}; it was tried {self._options.retries_max + 1} times")
        except httpx2.TimeoutException:
            failure = ServiceUnavailable(
                f"the answer came too slowly: {self._options.silence_s:g} s without a piece of it, "
                f"or {self._options.answer_s:g} s in all"
            )
        except (httpx2.HTTPError, httpx2.StreamError):
            failure = ServiceUnavailable("the connection broke while the answer came")
        except anthropic.APIError:
            failure = ServiceUnavailable("the service answered with what is no answer")
        except (ValueError, TypeError, AttributeError, LookupError, RuntimeError, AssertionError):
            # The SDK believes what it is sent; a stream of another shape ends in any of these.
            failure = AnswerMalformed("the stream of the answer has not the shape that the Messages API gives it")
        if not lost:
            return _Answered(failure, None, None, True)
        begun = _tokens(usage)
        tokens = most if begun is None else Tokens(
            input=begun.input, cache_write=begun.cache_write, cache_read=begun.cache_read, output=most.output
        )  # fmt: skip
        return _Answered(failure, None, tokens, False)

    def _read(self, stopped: str, content: Sequence[object], tokens: Tokens | None) -> _Answered:
        calls = [block for block in content if isinstance(block, ToolUseBlock) and block.name == TOOL_NAME]
        failure: ProposalFailed | None = None
        if stopped == "refusal":
            failure = ModelRefused("the model declined to answer; if it does so often, look at program.md and lessons")
        elif stopped in ("max_tokens", "model_context_window_exceeded"):
            failure = AnswerTruncated(
                f"the answer was cut off ({stopped}): raise tokens_max from {self._options.tokens_max}, or lower effort"
            )
        elif len(calls) != 1:
            failure = AnswerMalformed(f"the answer has {len(calls)} calls of the tool where one was asked for")
        exact = tokens is not None
        used = tokens or Tokens(output=self._options.tokens_max)
        return _Answered(failure, calls[0] if failure is None else None, used, exact)

    def _status(self, error: anthropic.APIStatusError) -> ProposalFailed:
        said = clean_line(str(error.api_message or ""), SAID_CHARACTERS_MAX)
        said = f': "{said}"' if said and not self._holds_key(said) else ""
        code, kind = error.status_code, str(error.type or "")
        if code == 529 or kind == "overloaded_error":
            return ServiceUnavailable(f"the service is overloaded{said}")
        if code == 429 or kind == "rate_limit_error":
            return ServiceUnavailable(f"the account is over its rate limit{said}")
        if code < 400:
            return ServiceUnavailable(f"the service failed in the middle of its answer{said}")
        if code >= 500 or code in (408, 409):
            return ServiceUnavailable(f"the service failed with status {code}{said}")
        hint = {
            400: "the request was not accepted: check model, effort and tokens_max",
            401: "the key was not accepted: check it",
            402: "the account cannot pay: check its billing",
            403: "the key may not do this: check what it is allowed",
            404: f"there is no model {clean_line(self._options.model, 100)} there: check model and base_url",
            413: "the request is too large: shorten program.md",
        }.get(code, f"the request was refused with status {code}")
        return ServiceRefused(f"{hint}{said}")

    def _proposal(self, block: ToolUseBlock, context: Context, usd: float, started: float) -> Proposal:
        answer = read_answer(block.input)
        text = applied(answer, context.program)
        hypothesis = clean_line(answer.hypothesis, HYPOTHESIS_CHARACTERS_MAX - 64)
        if self._holds_key(text) or self._holds_key(hypothesis):
            raise AnswerMalformed("the answer repeats this node's key: it is not passed on; replace the key")
        check_new(text, context.program, context.seen)
        return Proposal(
            program=text,
            hypothesis=hypothesis,
            proposer=self.name,
            operator=f"model:{self._options.model}"[:64],
            expected=expected_of(answer),
            seconds=self._clock() - started,
            usd=usd,
            answers=bool(context.suggestion.strip()),
        )

    def _bound(self, response: httpx2.Response) -> None:
        """Hear of a response before its body is read."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise httpx2.DecodingError("a compressed answer, which was not asked for", request=response.request)
        if response.status_code >= 400 and _asks_to_wait(response.headers):
            response.headers["x-should-retry"] = "false"  # the SDK would sleep as long as it is told to
        inner = cast(httpx2.SyncByteStream, response.stream)
        response.stream = _Bounded(inner, self._clock, self._clock() + self._options.answer_s)


class _Bounded(httpx2.SyncByteStream):
    """A body that ends in an error at a deadline or past ANSWER_BYTES_MAX."""

    def __init__(self, inner: httpx2.SyncByteStream, clock: Callable[[], float], deadline: float) -> None:
        self._inner, self._clock, self._deadline = inner, clock, deadline

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for chunk in self._inner:
            size += len(chunk)
            if size > ANSWER_BYTES_MAX:
                raise httpx2.ReadError(f"an answer of more than {ANSWER_BYTES_MAX >> 20} MiB")
            if self._clock() >= self._deadline:
                raise httpx2.ReadTimeout("the answer did not end in time")
            yield chunk

    def close(self) -> None:
        self._inner.close()


def _asks_to_wait(headers: httpx2.Headers) -> bool:
    """Whether a server wants a retry later than WAIT_S_MAX from now, or at a time of day."""
    try:
        in_ms = float(headers["retry-after-ms"]) / 1000 if "retry-after-ms" in headers else 0.0
        wait_s = in_ms or float(headers.get("retry-after", 0.0))
    except ValueError:
        return True
    return not wait_s <= WAIT_S_MAX


def _cached(text: str) -> TextBlockParam:
    return TextBlockParam(type="text", text=text, cache_control={"type": "ephemeral"})


def _tokens(usage: Usage | None) -> Tokens | None:
    """What the service says it used; None where it says nothing that can be meant."""
    if usage is None:
        return None
    counts = (
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_creation_input_tokens or 0,
        usage.cache_read_input_tokens or 0,
    )
    if not all(isinstance(count, int) and 0 <= count <= 2**40 for count in counts):
        return None
    return Tokens(input=counts[0], output=counts[1], cache_write=counts[2], cache_read=counts[3])
